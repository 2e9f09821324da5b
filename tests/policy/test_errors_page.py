"""docs/errors.md is what the sources say, and every message says what to do."""

from tests.policy.errors_page import messages, page, raised, wordless
from tests.policy.product_code import ROOT

# What they say comes whole from elsewhere.
PASSED_ON = {
    "cluster_jobs.preflight.networks": ["answer['error']"],
    "trainer.config.builder": ["f'{where}: {error}'"],
    "trainer.evaluation.classifier": ["f'{path}: {reason}'"],
    "trainer.runtime.table_feed": ["problem"],
    "cluster_jobs.ray_cluster.ray_watch": ["watch.problem"],
}


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "errors.md").read_text() == page(), (
        "run: python -m tests.policy.errors_page > docs/errors.md"
    )


def test_every_message_says_what_to_do_or_what_is_expected():
    assert [message.text for message in messages() if not message.remedy] == []


def test_the_words_of_every_message_are_found():
    assert wordless() == PASSED_ON


def test_there_is_something_to_check():
    assert len(messages()) > 250
    assert {exit_code for _, _, exit_code in raised()} == {1, 2}
