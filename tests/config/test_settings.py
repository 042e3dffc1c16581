"""How the config's fields reach the training step."""

import pytest

from configs import default
from rfquant_jax.config import settings
from rfquant_jax.quant.sampling import Sampling


def test_region_decay_is_the_difference_of_the_two_decays():
    config = default.get_config()
    assert settings.coupled_step(config).loss.region == pytest.approx(-2.5e-5)
    config.losses.wd_region = 1e-4
    assert settings.coupled_step(config).loss.region == pytest.approx(7.5e-5)


def test_without_information_distortion_mitigation_its_features_are_not_kept():
    config = default.get_config()
    assert settings.coupled_step(config).loss.idm == 0.01
    config.losses.information_distortion_mitigation = False
    assert settings.coupled_step(config).loss.idm == 0


def test_the_sampling_of_a_run_reaches_its_steps_and_its_scheduler():
    config = default.get_config()
    assert settings.coupled_step(config).sampling == Sampling()
    config.train.sampling, config.train.level_spread = "levels", 0.5
    config.train.smallest_pass, config.scheduler.release_from = 0.25, 0.6
    assert settings.coupled_step(config).sampling == Sampling("levels", 0.5, 0.25)
    assert settings.coupled_plan(config).scheduler.release_from == 0.6


def test_seeds_differ_by_purpose_and_by_run():
    config = default.get_config()
    found = {settings.derived_seed(config, purpose) for purpose in ("pretrain", "train", "search")}
    config.seed = 1
    found |= {settings.derived_seed(config, purpose) for purpose in ("pretrain", "train")}
    assert len(found) == 5
    assert settings.derived_seed(config, "train") == settings.derived_seed(config, "train")
