"""The page docs/interplay.md and the tests of its claims, test_interplay_*.py, name each other."""

import re
from pathlib import Path

from training_steps import PAGE


def test_every_test_is_named_on_the_page_and_the_page_names_no_other() -> None:
    files = Path(__file__).parent.glob("test_interplay_*.py")
    source = "\n".join(file.read_text() for file in files)
    tests = re.findall(r"^def (test_\w+)\(", source, re.MULTILINE)
    named = re.findall(r"<!-- (test_\w+) -->", PAGE)
    assert len(tests) == len(set(tests)) > 40
    assert set(named) == set(tests)


def test_every_claim_in_a_list_of_the_page_names_its_test() -> None:
    claims = re.findall(r"^- (.*(?:\n  .*)*)", PAGE, re.MULTILINE)
    assert len(claims) > 40
    for claim in claims:
        assert re.fullmatch(r".+ <!-- test_\w+ -->", claim), claim
