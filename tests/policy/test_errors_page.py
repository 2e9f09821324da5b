"""docs/errors.md is what the sources say, and every message says what to do."""

from tests.policy.errors_page import messages, page, raised, wordless
from tests.policy.product_code import ROOT

# What they say comes whole from elsewhere.
PASSED_ON = {
    "trainer.evaluation.classifier": ["f'{path}: {reason}'"],
    "trainer.runtime.table_feed": ["problem"],
    "cluster_jobs.ray_cluster.ray_watch": ["watch.problem"],
}
# How those begin that are still to be given a remedy.
WITHOUT_REMEDY = {
    "--set ‹key›: the value ‹value› is not valid YAML",
    "DeepSpeed could not load the checkpoint ‹path›",
    "baselines: ‹name› and ‹value› share a folder",
    "cannot read the configuration ‹path›: ‹reason›",
    "cannot read ‹path›: ‹reason›",
    "cluster table ‹version› of task ‹task› has ‹classes› classes, the shar",
    "data.shards is not set: the folder that `clmle import ... --out` wrote",
    "loss.name ‹name› has the settings ‹type›, got ‹type›",
    "not an image that Pillow can read (‹number› bytes)",
    "not an image that Pillow can read (‹number› bytes): ‹reason›",
    "unknown setting ‹found›: ‹renamed setting›",
    "‹name› has no label ‹first›, it has ‹label columns›",
    "‹name› is missing‹example›",
    "‹name› takes no path (‹layout›), got ‹path›",
    "‹path› already holds checkpoints of this run: continue with --resume a",
    "‹path› is not a readable tar: ‹reason›",
    "‹path› is not valid YAML: ‹reason›",
    "‹setting›: ‹section› has no settings inside it",
}


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "errors.md").read_text() == page(), (
        "run: python -m tests.policy.errors_page > docs/errors.md"
    )


def test_every_message_says_what_to_do_or_what_is_expected():
    without = {message.cause[:70] for message in messages() if not message.remedy}
    assert without == WITHOUT_REMEDY


def test_the_words_of_every_message_are_found():
    assert wordless() == PASSED_ON


def test_there_is_something_to_check():
    assert len(messages()) > 250
    assert {exit_code for _, _, exit_code in raised()} == {1, 2}
