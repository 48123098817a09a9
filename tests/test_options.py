"""Options that are made from the settings."""

import argparse
from dataclasses import dataclass

import pytest

from sobolev_lib import __main__ as command
from sobolev_lib.distillation import commands, students, teachers
from sobolev_lib.records import options
from sobolev_lib.regression.arms import IDENTITY
from sobolev_lib.regression.training import Setting
from sobolev_lib.synthetic_gradients import settings


@dataclass
class Trial:
    """A setting.

    Parameters
    ----------
    steps, batch : int
        How long. And more.
    rate : float or None
        How fast, in :attr:`units`.
    names : tuple of str
        Keys of :data:`.pack.KINDS` or :class:`~lib.Kind` (any number; order counts); see there.
    flag : bool
        Whether.
    """

    steps: int = 1
    batch: int = 2
    rate: float | None = 0.5
    names: tuple[str, ...] = ()
    flag: bool = False


@pytest.fixture
def parser():
    made = argparse.ArgumentParser()
    options.add_fields(made, Trial, skip=["batch"])
    return made


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", {}),
        ("--steps 3", {"steps": 3}),
        ("--steps 0", {"steps": 0}),  # not swallowed: the setting refuses it
        ("--rate 1e-3 --flag", {"rate": 1e-3, "flag": True}),
        ("--rate none --no-flag", {"rate": None, "flag": False}),
        ("--names a b", {"names": ["a", "b"]}),
    ],
)
def test_what_is_given_is_changed_and_can_be_said_again(parser, words, changed):
    assert options.changes(parser.parse_args(words.split()), Trial) == changed
    again = " ".join(options.words(changed)).split()
    assert options.changes(parser.parse_args(again), Trial) == changed


def test_help_is_the_docstrings():
    assert options.descriptions(Trial) == {
        **{"steps": "How long", "batch": "How long", "rate": "How fast, in units"},
        **{"names": "Keys of pack.KINDS or lib.Kind (any number; order counts)", "flag": "Whether"},
    }


def test_what_cannot_be_read_is_refused(parser, capsys):
    for words in (["--rate", "fast"], ["--batch", "3"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
    assert "invalid float value: 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "experiment", "cls", "skip"),
    [
        (command.main, "regression", Setting, IDENTITY),
        (command.main, "synthetic_gradients", settings.Setting, command.SKIPPED),
        (commands.main, "teacher", teachers.PixelSettings, ("game", "milestone")),
        (commands.main, "distill", students.Settings, commands.OTHERS),
    ],
)
def test_every_field_of_a_setting_is_an_option_with_a_help_text(
    main, experiment, cls, skip, capsys
):
    with pytest.raises(SystemExit):
        main([experiment, "--help"])
    text = capsys.readouterr().out
    for name in cls.__dataclass_fields__.keys() - set(skip):
        assert f"--{name.replace('_', '-')}" in text
        assert options.descriptions(cls).get(name), name


def test_the_books_ledger_is_that_of_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options.ledger, "default_folder", lambda: tmp_path / "none")
    monkeypatch.delenv("SOBOLEV_DATA", raising=False)
    assert command.main(["kriging", "--book", "--quiet"]) == 2
    assert "--book: there is no" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_zero_steps_are_refused(tmp_path, capsys):
    words = ["regression", "--steps", "0", "--ledger", str(tmp_path), "--quiet"]
    assert command.main(words) == 2
    assert "steps is 0" in capsys.readouterr().err and not list(tmp_path.iterdir())
