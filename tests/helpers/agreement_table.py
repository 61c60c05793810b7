"""The agreement table, front end x promise: what the tests have just shown, as a page of the docs.

A plugin of pytest, at work only with ``--table PAGE``; ``make table`` is the command.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiers import row_of

# The promises of docs/guarantees.md, in short, and all tests that have to pass for each.
PROMISES = {
    "agrees with the paper's equations in 60-digit arithmetic, at each call: values, gradients, "
    "moments, counts": (
        "test_agrees_on_a_training_run_with_spikes_nans_and_masks",
        "test_agrees_on_losses_of_either_sign",
        "test_agrees_without_masks_for_any_batch_size",
        "test_agrees_for_any_scale_and_spread",
        "test_agrees_on_whatever_hypothesis_finds",
    ),
    "unclipped losses come back bit for bit": (
        "test_unclipped_losses_come_back_bit_for_bit",
        "test_unclipped_losses_beside_a_clipped_one_come_back_bit_for_bit",
    ),
    "clipped ones have the value of the limit, and its share as gradient factor": (
        "test_clipped_losses_have_the_value_of_the_limit_and_its_share_as_factor",
        "test_factors_lie_in_0_1_and_are_never_0_for_a_positive_limit",
        "test_a_gradient_is_never_flipped_when_the_limit_is_negative",
    ),
    "scale law": ("test_scale_law",),
    "order is kept": ("test_order_is_kept",),
    "no loss exceeds its limit or its own value": (
        "test_no_loss_exceeds_its_limit_or_its_own_value",
    ),
    "float32 state agrees with long double over a long run": (
        "test_the_state_of_each_row_agrees_with_long_double_over_a_long_run",
    ),
    "zeros count nowhere, losses too large for float32 as not finite; protection goes on": (
        "test_losses_of_0_come_back_and_count_nowhere",
        "test_losses_that_teach_keep_their_gradients_where_most_losses_are_0",
        "test_a_huge_loss_counts_as_not_finite_and_leaves_the_others_protected",
        "test_a_huge_loss_meets_a_limit_like_any_other",
        "test_an_infinite_weight_is_a_large_one",
        "test_calm_losses_are_never_limited_however_small",
    ),
    "the variance is never negative, the state never NaN": (
        "test_the_variance_is_never_negative_and_the_state_never_nan",
        "test_losses_whose_square_overflows_float32_do_not_break_the_state",
    ),
    "a NaN, infinite, empty or masked batch moves nothing; protection goes on": (
        "test_a_bad_batch_leaves_the_moments_as_they_were_and_protection_goes_on",
        "test_a_nan_among_good_losses_leaves_the_others_protected",
    ),
    "never sticks": (
        "test_never_sticks_after_a_constant_run",
        "test_a_start_ten_times_too_low_recovers",
        "test_a_start_ten_times_too_high_decays",
    ),
    "the start is the average that recency says, and forgets the descent": (
        "test_the_automatic_start_is_the_plain_average_of_all_losses_so_far",
        "test_with_recency_a_call_of_the_start_weighs_like_a_power_of_its_number",
        "test_with_recency_the_descent_of_a_training_is_forgotten_in_hundreds_of_calls",
        "test_with_recency_a_lasting_step_is_let_through_again",
    ),
    'with scale="log" it agrees with the equations in 60-digit arithmetic, at each call': (
        "test_logarithms_agree_on_a_training_run_with_spikes_nans_and_masks",
        "test_logarithms_agree_on_losses_of_either_sign_without_masks",
        "test_logarithms_agree_for_any_scale_and_spread",
        "test_logarithms_agree_on_whatever_hypothesis_finds",
        "test_logarithms_agree_with_longer_numbers_over_a_long_run",
    ),
    "there the same losses are limited whatever power the error has, and on whatever scale": (
        "test_the_same_losses_are_limited_whatever_power_the_error_has",
        "test_logarithms_keep_the_scale_law",
        "test_logarithms_never_stick_and_have_the_same_least_spread_on_every_scale",
    ),
    "losses without a logarithm come back bit for bit and never enter the moments": (
        "test_what_has_no_logarithm_comes_back_bit_for_bit_beside_limited_losses",
        "test_of_losses_up_to_0_those_below_count_as_not_finite_in_logarithms",
        "test_a_loss_below_0_that_is_masked_counts_nowhere_in_logarithms",
        "test_any_finite_loss_above_0_counts_in_logarithms",
        "test_a_bad_batch_leaves_the_moments_of_logarithms_and_protection_goes_on",
    ),
    "a state of the other scale is refused in words, and not taken over": (
        "test_a_state_of_the_other_scale_is_refused_in_words_and_not_taken_over",
    ),
    "the original README's example warns and runs": (
        "test_the_example_of_the_original_readme_runs_and_explains_what_is_wrong",
    ),
    "moments stay float32 for half-precision losses": (
        "test_moments_stay_float32_and_move_under_half_precision_losses",
    ),
    "evaluation is the identity and moves nothing": (
        "test_evaluation_is_the_identity_and_moves_nothing",
    ),
    "saved, loaded and resumed: bit for bit the uninterrupted run": (
        "test_resumed_training_is_bit_for_bit_the_uninterrupted_run",
    ),
    "a damaged state is refused in words, and nothing is taken over": (
        "test_a_damaged_state_is_refused_in_words_and_nothing_is_taken_over",
        "test_half_a_state_is_refused_in_words_and_nothing_is_taken_over",
    ),
    "structure, shapes and dtypes of the state never change": (
        "test_state_keeps_structure_shapes_and_dtypes_from_the_first_call_to_the_last",
    ),
    "a second call compiles nothing": (
        "test_a_second_call_compiles_nothing",
        "test_the_second_epoch_compiles_nothing",
    ),
}
KERAS_ONLY = {"test_the_second_epoch_compiles_nothing"}  # whose layers are compiled in fit
HEAD = """# What was tested in which front end

Each cell is the number of test cases that passed; `make table` runs them all and writes this page.
The rows are [what is promised](guarantees.md), in short, and the columns those of
`tests/helpers/table.py`. A long run is 100,000 losses for torch and jax-jitted, else 12,000.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", metavar="PAGE", help="write the agreement table to this page")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--table"):
        config.pluginmanager.register(Table(Path(config.getoption("--table"))), "agreement-table")


class Table:
    """Counts the cases of each test and front end, and writes them down in the end."""

    def __init__(self, page: Path) -> None:
        from table import ROWS  # all frameworks, which other runs of the tests may not need

        self.page, self.rows = page, list(ROWS)
        self.passed: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:  # what a report brings back from another process
            if (row := row_of(item)) in self.rows:
                item.user_properties.append(("cell", (item.originalname, row)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cell = dict(report.user_properties).get("cell")
        if cell and (report.when == "call" or report.failed):
            (self.passed if report.passed else self.failed)[tuple(cell)] += 1

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if hasattr(config, "workerinput"):
            return
        lines, incomplete = self.lines()
        terminalreporter.section("agreement table")
        terminalreporter.write("\n".join(lines) + "\n")
        if incomplete:
            terminalreporter.write(f"Not complete, so {self.page} was left as it is:\n")
            terminalreporter.write("".join(f"  {cell}\n" for cell in incomplete))
        else:
            self.page.write_text("\n".join([HEAD, *lines, ""]))
            terminalreporter.write(f"Complete; written to {self.page}\n")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not hasattr(session.config, "workerinput") and self.lines()[1]:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def lines(self) -> tuple[list[str], list[str]]:
        """The table in Markdown, and its cells in which a test failed or is missing."""
        lines = ["| | " + " | ".join(self.rows) + " |", "|---" * (len(self.rows) + 1) + "|"]
        incomplete = []
        for promise, tests in PROMISES.items():
            cells = []
            for row in self.rows:
                own = [t for t in tests if t not in KERAS_ONLY or row.startswith("keras")]
                bad = [t for t in own if self.failed[t, row] or not self.passed[t, row]]
                incomplete += [f"{row}: {test}" for test in bad]
                cells.append("FAILED" if bad else str(sum(self.passed[t, row] for t in own)))
            lines.append(f"| {promise} | " + " | ".join(cells) + " |")
        return lines, incomplete
