"""What the command line makes of the library's errors."""

import pytest

from configs import default
from rfquant_jax.config.field_names import FIELDS, in_field_names
from rfquant_jax.config.fields import leaves
from rfquant_jax.errors import ArgumentError, CheckpointError, ConfigError, RunFailure
from rfquant_jax.search.budget import check_budget


def test_every_name_is_a_field():
    assert set(FIELDS.values()) <= set(dict(leaves(default.get_config())))


def test_an_argument_becomes_a_field_and_the_names_in_its_rule_too():
    with pytest.raises(ConfigError) as error, in_field_names():
        check_budget("5ms", ("G", "MB"))
    assert str(error.value).startswith("config.search.budgets = '5ms': must be a number of GBitOPs")
    assert "with search.latency_table a latency (5ms)" in str(error.value)
    assert error.value.field == "search.budgets"


@pytest.mark.parametrize("kind", [CheckpointError, RunFailure])
def test_other_errors_keep_their_kind(kind):
    with pytest.raises(kind) as error, in_field_names():
        raise kind("`workdir`=runs/a: `rules` and `candidates`, not `bits`; take another `workdir`")
    assert str(error.value) == (
        "--workdir=runs/a: config.quant.rules and config.quant.candidates, not `bits`; "
        "take another --workdir"
    )


def test_options_of_a_network_are_fields_and_unknown_arguments_stay():
    said = r"config\.model\.options\.width = 0: must be positive"
    with pytest.raises(ConfigError, match=said), in_field_names():
        raise ArgumentError("options.width", 0, "must be positive")
    with pytest.raises(ArgumentError, match="`bits` = 0: must be positive"), in_field_names():
        raise ArgumentError("bits", 0, "must be positive")
