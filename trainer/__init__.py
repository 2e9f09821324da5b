"""Network, CLMLE loss, cluster sampler, DeepSpeed loop, evaluation."""
