"""Grids of what networks learned."""

import numpy as np
import pytest
import torch

from sobolev_lib.functions import FUNCTIONS
from sobolev_lib.regression import arms
from sobolev_lib.regression import grids as surfaces
from sobolev_lib.regression import training as regression


def test_truth():
    values, slopes = surfaces.truth("booth")
    assert values.shape == (33, 33) and slopes.shape == (13, 13, 2)
    corner = torch.tensor([[10.0, -10.0]], dtype=torch.float64)
    assert values[0, -1] == FUNCTIONS["booth"](corner).item()
    centre = corner * 12 / 13  # of the corner's cell
    np.testing.assert_allclose(slopes[0, -1], FUNCTIONS["booth"].gradient(centre)[0].numpy())


def test_collect_and_load(tmp_path, monkeypatch):
    short = {"paper": {"steps": 3}}
    monkeypatch.setattr(arms, "ARMS", short)
    for seed in (0, 1):
        regression.train(regression.settings("paper", [20]), seed, folder=tmp_path / "states")
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    monkeypatch.setattr(surfaces, "SEEDS", 3)
    written = surfaces.collect(tmp_path / "states")
    assert {p.parent for p in written} == {tmp_path / "regression"}
    assert [p.name for p in written] == ["weights-20.safetensors", "grids.npz"]
    found = surfaces.load()
    assert len(found) == 7 * 2 * 2 and ("beale", 20, "sobolev", 1) in found
    model = surfaces.network("beale", 20, "sobolev")
    x = surfaces.arrow_grid("beale").reshape(-1, 2).float().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x)
    np.testing.assert_allclose(
        found["beale", 20, "sobolev", 0][1].reshape(-1, 2), slope.numpy(), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="no network for function 'x'"):
        surfaces.network("x", 20, "sobolev")


def test_missing_grids_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SOBOLEV_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="sobolev_lib grids"):
        surfaces.load()


def test_nothing_finished_touches_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(surfaces, "SEEDS", 1)
    (tmp_path / "grids.npz").write_text("the book's own")
    with pytest.raises(ValueError, match=r"states is .*; no run of the arm “paper” that has"):
        surfaces.collect(tmp_path / "none", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["grids.npz"]
    assert (tmp_path / "grids.npz").read_text() == "the book's own"
