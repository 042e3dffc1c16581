"""What a user may get wrong on the command line: one line each, before any work."""

import pytest

from tests.launch.conftest import SHRUNK, assert_one_line


def test_the_workdir_of_another_run_is_refused(launch_alone, finished):
    done = launch_alone(*SHRUNK, f"--workdir={finished[0]}", "--config.optimizer.lr=0.02")
    assert_one_line(done, "belongs to another run: config.optimizer.lr was 0.04 and is 0.02")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.optimizer.lrr=1"], "did you mean config.optimizer.lr?"),
        (["--config.train.epochs=many"], "--config.train.epochs=many: invalid literal for int"),
        (["--workdri=x"], "Did you mean: workdir"),
        (["stray"], "unknown argument 'stray'"),
        (["--config=missing.py"], "there is no such Python file"),
        (["--config.tasks=fly"], "must be among pretrain, train, search, evaluate, export"),
        (["--config.devices=3"], "must be 0 (all) or at most 1"),
        (["--config.quant.rules=(('layre1.*', (4,)),)"], "'layre1.*' matches no searched layer"),
        (
            ["--config.search.budgets=1*w4a4,60kb", "--config.tasks=cost"],
            "= '60kb': must be a number",
        ),
        (
            ["--config.search.budgets=60KB+1MB", "--config.tasks=predict"],
            "several limits of one kind",
        ),
        (["--config.search.budgets=0.001G"], "0.001G cannot be reached; configurations of this"),
        (["--config.data.search_fraction=0.0005"], "config.data.search_fraction = 0.0005: must"),
        (["--config.train.batch_size=4000"], "there are only 973 training images"),
        (["--config.tasks=search"], "has no train checkpoint"),
        (["--config.tasks=evaluate"], "has no pretrain checkpoint"),
        (["--config.tasks=search", "--config.checkpoint=nowhere"], "config.checkpoint=nowhere"),
        (["--config.tasks=evaluate", "--config.configuration=w9a9"], "9 is not one of"),
        (["--config.distillation.teacher=nowhere"], "nowhere/config.json: cannot be read"),
        (["--config.model.name=typo", "--config.tasks=pretrain"], "must be one of cifar_resnet14"),
        (["--config.pretrained=no.npz"], "config.pretrained: no.npz: there is no such file"),
        (["--config.quant.signed=('layre1.*',)"], "config.quant.signed: 'layre1.*' matches none"),
        (["--config.quant.candidates=('a','b')"], "every entry must be a whole number"),
        (["--config.data.std=abc"], "every entry must be a number"),
        (
            ["--config.search.confirm_fraction=0.001", "--config.search.algorithm=greedy"],
            "config.search.confirm_fraction = 0.001: must leave images on both sides",
        ),
        (["--config.search.algorithm=integer"], "must be trust_region, greedy, paper, evolution"),
        (["--config.search.evaluations=5"], "config.search.evaluations = 5: must be at least 10"),
        (["--config.search.confirm_margin=0.0"], "is not a field of the recipe"),
    ],
)
def test_a_mistake_is_said_in_one_line_before_any_work(launch, tmp_path, arguments, said):
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, said)
    assert done.stdout == ""
    assert not (tmp_path / "new").exists()


def test_the_checkpoint_of_another_network_is_refused(launch, finished, tmp_path):
    arguments = ["--config.tasks=search", f"--config.checkpoint={finished[0]}"]
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")  # with the quickstart's own network
    assert_one_line(done, "mobilenetv2_tiny")
    assert "cifar_resnet8" in done.stderr


def test_a_checkpoint_that_was_trained_on_the_held_out_images_is_refused(
    launch, finished, tmp_path
):
    changed = ["--config.tasks=search", "--config.data.split_seed=5"]
    arguments = [*SHRUNK, *changed, f"--config.checkpoint={finished[0]}"]
    done = launch(*arguments, f"--workdir={tmp_path / 'new'}")
    assert_one_line(done, "its data: split_seed is 0, this run's is 5")


def test_a_teachers_folder_without_a_trained_network_is_refused(launch, finished, tmp_path):
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for content, said in (
        ("[1]", "is not a run's"),
        ("{}", "is missing"),
        (None, "has no pretrain"),
    ):
        text = (finished[0] / "config.json").read_text() if content is None else content
        (teacher / "config.json").write_text(text)
        done = launch(f"--config.distillation.teacher={teacher}", f"--workdir={tmp_path / 'new'}")
        assert_one_line(done, said)
        assert "config.distillation.teacher" in done.stderr
