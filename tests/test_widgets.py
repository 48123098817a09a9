"""The widgets' JavaScript computes what torch computes, and their traits refuse nonsense."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
import traitlets
from torch import nn

from sobolev_lib import kinks
from sobolev_lib.figures.style import COLOURS, LABELS
from sobolev_lib.widgets import SobolevFit1D

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None, reason="Node.js is not installed: it runs the widgets' JavaScript here"
)


def run_js(widget, script, payload, tmp_path):
    """Run `script` with the widget's module as `w` and the payload as `input`; it returns what it assigns to `out`."""
    (tmp_path / "widget.mjs").write_text(widget._esm, encoding="utf-8")
    (tmp_path / "main.mjs").write_text(
        "import * as w from './widget.mjs';\nimport fs from 'fs';\nlet out;\n"
        f"const input = JSON.parse(fs.readFileSync(0, 'utf8'));\n{script}\n"
        "console.log(JSON.stringify(out, (k, v) => ArrayBuffer.isView(v) ? Array.from(v) : v));\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [NODE, "main.mjs"], input=json.dumps(payload), capture_output=True, text=True, cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reference_network(theta, hidden, activation):
    """The 1-H-H-1 network of fit1d.js as a torch module with the parameters `theta`."""
    unit = {"relu": nn.ReLU, "tanh": nn.Tanh, "kernel": lambda: kinks.ReLU(0.15)}[activation]
    net = nn.Sequential(
        nn.Linear(1, hidden), unit(), nn.Linear(hidden, hidden), unit(), nn.Linear(hidden, 1)
    ).double()  # fmt: skip
    nn.utils.vector_to_parameters(theta, net.parameters())
    return net


@needs_node
@pytest.mark.parametrize("activation", ["relu", "kernel", "tanh"])
@pytest.mark.parametrize("weight", [0.0, 0.37, 4.0])
def test_hand_written_gradient_is_that_of_double_backward(activation, weight, tmp_path):
    hidden, n = 7, 11
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(hidden**2 + 4 * hidden + 1, generator=generator, dtype=torch.float64)
    x, y, dy = torch.randn(3, n, 1, generator=generator, dtype=torch.float64)
    payload = {
        "H": hidden, "theta": theta.tolist(), "kind": activation, "weight": weight,
        "x": x[:, 0].tolist(), "y": y[:, 0].tolist(), "dy": dy[:, 0].tolist(),
    }  # fmt: skip
    out = run_js(
        SobolevFit1D,
        "const grad = new Float64Array(w.parameterCount(input.H));"
        "const loss = w.lossAndGradient(Float64Array.from(input.theta), input.H, input.kind, input.x, input.y,"
        " input.dy, input.weight, grad, w.workspace(input.H)); out = { loss, grad };",
        payload,
        tmp_path,
    )

    net = reference_network(theta, hidden, activation)
    x.requires_grad_()
    value = net(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    values, slopes = ((value - y) ** 2).mean(), ((slope - dy) ** 2).mean()
    total = values + weight * slopes
    grads = torch.autograd.grad(total, tuple(net.parameters()), materialize_grads=True)
    want = torch.cat([g.reshape(-1) for g in grads])
    assert out["loss"]["values"] == pytest.approx(values.item(), rel=1e-12)
    assert out["loss"]["slopes"] == pytest.approx(slopes.item(), rel=1e-12)
    assert out["loss"]["total"] == pytest.approx(total.item(), rel=1e-12)
    got = torch.tensor(out["grad"], dtype=torch.float64)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * want.abs().max().item())


@needs_node
def test_kink_kernel_changes_the_gradient_only_with_a_derivative_term(tmp_path):
    """Guards the test above: with equal results for both activations it could not see the kernel."""
    script = (
        "const theta = w.initialise(6, 'relu', 1); const data = w.sample('smooth', 9, 2);"
        "out = [0, 1].map((weight) => ['relu', 'kernel'].map((kind) => {"
        " const grad = new Float64Array(theta.length);"
        " w.lossAndGradient(theta, 6, kind, data.x, data.y, data.dy, weight, grad, w.workspace(6));"
        " return grad; }));"
    )
    plain, sobolev = np.array(run_js(SobolevFit1D, script, {}, tmp_path))
    assert np.array_equal(plain[0], plain[1])
    assert np.abs(sobolev[0] - sobolev[1]).max() > 1e-3


@needs_node
@pytest.mark.parametrize("activation", ["relu", "kernel", "tanh"])
def test_training_is_that_of_torch_adam_with_cosine(activation, tmp_path):
    settings = {
        "target": "bumpy", "n": 6, "weight": 0.3, "activation": activation,
        "seed": 4, "hidden": 5, "steps": 40, "rate": 0.02,
    }  # fmt: skip
    out = run_js(
        SobolevFit1D,
        "const run = w.experiment(input); const start = Float64Array.from(run.nets.sobolev.theta);"
        "const same = run.nets.values.theta.every((v, i) => v === start[i]);"
        "for (let k = 0; k < 25; k++) run.advance();"
        "out = { start, same, data: run.data, end: run.nets.sobolev.theta, values: run.nets.values.theta };",
        settings,
        tmp_path,
    )
    assert out["same"]  # both networks start alike
    x, y, dy = (
        torch.tensor(out["data"][k], dtype=torch.float64).reshape(-1, 1) for k in ("x", "y", "dy")
    )
    for key, weight in (("end", 0.3), ("values", 0.0)):
        net = reference_network(torch.tensor(out["start"], dtype=torch.float64), 5, activation)
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        anneal = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 40)
        points = x.clone().requires_grad_()
        for _ in range(25):
            adam.zero_grad()
            value = net(points)
            (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
            (((value - y) ** 2).mean() + weight * ((slope - dy) ** 2).mean()).backward()
            adam.step()
            anneal.step()
        want = nn.utils.parameters_to_vector(net.parameters()).detach()
        got = torch.tensor(out[key], dtype=torch.float64)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


@needs_node
def test_targets_have_the_slopes_they_claim(tmp_path):
    x = np.linspace(-0.98, 0.97, 40)
    out = run_js(
        SobolevFit1D,
        "out = {}; for (const [k, t] of Object.entries(w.TARGETS)) out[k] = input.map((x) =>"
        " [t.df(x), (t.f(x + 1e-6) - t.f(x - 1e-6)) / 2e-6]);",
        x.tolist(),
        tmp_path,
    )
    assert set(out) == set(SobolevFit1D.class_traits()["target"].values)
    for pairs in out.values():
        exact, differences = np.array(pairs).T
        np.testing.assert_allclose(exact, differences, atol=1e-6)


@needs_node
def test_points_depend_on_the_seed_and_lie_in_the_domain(tmp_path):
    out = run_js(
        SobolevFit1D, "out = [0, 0, 1].map((s) => w.sample('smooth', 200, s).x);", {}, tmp_path
    )
    assert out[0] == out[1] != out[2]
    x = np.array(out[0])
    assert np.all(np.diff(x) >= 0)
    assert x.min() >= -1
    assert x.max() <= 1
    assert abs(x.mean()) < 4 / np.sqrt(3 * 200)  # four standard errors of a uniform mean


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("target", "wavy"),
        ("n", 2),
        ("n", 21),
        ("weight", -1.0),
        ("activation", "gelu"),
        ("seed", -1),
    ],
)
def test_fit_refuses_values_outside_its_controls(key, bad):
    with pytest.raises(traitlets.TraitError, match=f"'{key}'"):
        SobolevFit1D(**{key: bad})


def test_modules_are_self_contained_and_speak_the_books_colours():
    for widget in (SobolevFit1D,):
        text = widget._esm
        assert "__COLOURS__" not in text
        assert json.dumps(COLOURS) in text
        assert json.dumps(LABELS) in text
        for forbidden in ("import ", "import(", "fetch(", "http://", "https://", "XMLHttpRequest"):
            assert forbidden not in text, forbidden
        assert len(text) < 40_000  # each instance carries it into its page
