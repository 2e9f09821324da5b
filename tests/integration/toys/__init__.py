"""The smallest source, loss, backbone, read-out, verb and k-means rule: a file each."""
