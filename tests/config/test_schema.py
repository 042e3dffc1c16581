"""The schema: each field once, with a meaning, a valid default and a target that exists."""

import dataclasses

import pytest

from rfquant_jax.config import default_config, settings
from rfquant_jax.config.declaration import Field, of, section
from rfquant_jax.config.fields import leaves
from rfquant_jax.config.schema import FIELDS, RESUMABLE, SECTIONS
from rfquant_jax.quant.quant_config import QuantConfig
from rfquant_jax.runtime.setting import at_least, setting_of
from rfquant_jax.train.scheduler import SchedulerConfig
from rfquant_jax.train.step_config import StepConfig
from rfquant_jax.train.train_config import TrainConfig


def test_every_field_has_a_meaning():
    for name, declared in FIELDS.items():
        assert len(declared.help) > 10, name
    assert all(section.meaning for section in SECTIONS)


def test_the_default_config_has_the_declared_fields():
    names = sorted(name for name, _ in leaves(default_config()))
    assert names == sorted(FIELDS.keys() - {"model.options"})
    assert len(FIELDS) == sum(len(section.fields) for section in SECTIONS)
    assert dict(default_config().model.options) == {}


def test_configs_do_not_share_their_sections():
    first = default_config()
    first.train.epochs, first.model.options.width = 1, 2
    assert default_config().train.epochs == 150
    assert not default_config().model.options


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: Field(0, "count", at_least(1)), "count: the default 0 must be at least 1"),
        (lambda: Field(-1, "count"), "count: the default -1 must not be negative"),
        (lambda: Field("", ""), "has no meaning"),
        (lambda: of(StepConfig, "momentum", default=1.0), "the default 1.0 .* below 1"),
    ],
)
def test_a_field_without_meaning_or_with_a_wrong_default_is_refused(declare, said):
    with pytest.raises(ValueError, match=said):
        declare()


def test_a_reference_to_nothing_is_refused():
    with pytest.raises(LookupError, match="StepConfig has no setting 'random_pass'"):
        of(StepConfig, "random_pass")
    with pytest.raises(TypeError, match="resumeable"):
        of(StepConfig, "momentum", resumeable=True)


def test_a_reference_takes_default_meaning_and_rule_from_the_class():
    found = of(StepConfig, "momentum")
    assert (found.default, found.meaning) == (0.9, setting_of(StepConfig, "momentum").meaning)
    assert found.rule is setting_of(StepConfig, "momentum").rule
    assert FIELDS["train.random_passes"].default == 3
    changed = of(StepConfig, "momentum", "inertia", default=0.5, resumable=True, more="of SGD")
    assert (changed.default, changed.meaning, changed.rule) == (0.5, "inertia", found.rule)
    assert (changed.resumable, changed.help) == (True, "inertia\nof SGD")


def test_a_section_prefixes_its_fields_and_may_be_resumable():
    part = section("a", "of a", resumable=True, name=Field("x", "a name"))
    assert list(part.fields) == ["a.name"]
    assert part.fields["a.name"].resumable
    assert list(section("", "top", name=Field("x", "a name")).fields) == ["name"]


@pytest.mark.parametrize("sections", [settings.PRETRAIN, settings.COUPLED])
def test_no_two_fields_of_a_training_set_the_same(sections):
    referring = [n for n, f in FIELDS.items() if f.target and n.split(".")[0] in sections]
    assert sorted(settings.targets(sections).values()) == sorted(referring)


def test_every_constant_of_coupled_training_is_a_field_of_the_config():
    computed = {TrainConfig: {"scheduler", "step", "seed"}}  # seeds are derived, see settings.py
    for cls in (StepConfig, TrainConfig, SchedulerConfig, QuantConfig):
        names = {declared.name for declared in dataclasses.fields(cls)} - computed.get(cls, set())
        assert settings.targets(settings.COUPLED, cls).keys() == names, cls


def test_a_value_reaches_the_class_that_its_field_refers_to():
    config = default_config()
    config.optimizer.adam_b2, config.losses.lambda_idm, config.quant.fixed_bits = 0.5, 0.25, 4
    config.train.accumulate, config.scheduler.period, config.quant.split_candidates = 2, 7, True
    config.quant.rules = [["conv*", [4, 2]]]  # as read from JSON
    found = settings.train_config(config)
    assert (found.step.adam_b2, found.step.idm, found.step.accumulate) == (0.5, 0.25, 2)
    assert (found.scheduler.period, found.scheduler.split_candidates) == (7, True)
    assert settings.quant_settings(config).fixed_bits == 4
    assert settings.quant_settings(config).rules == (("conv*", (4, 2)),)
    config.pretrain.lr, config.pretrain.momentum, config.train.log_every = 0.5, 0.25, 9
    found = settings.pretrain_config(config)
    assert (found.lr, found.step.momentum, found.log_every) == (0.5, 0.25, 9)
    assert (found.step.random_passes, found.scheduler) == (0, None)


def test_a_run_may_be_resumed_with_other_tasks_and_not_with_another_training():
    assert {"tasks", "data.path", "train.accumulate", "export.formats"} <= set(RESUMABLE)
    trained = [n for n in FIELDS if n.split(".")[0] in ("pretrain", "optimizer", "losses", "quant")]
    assert not set(trained) & set(RESUMABLE)
