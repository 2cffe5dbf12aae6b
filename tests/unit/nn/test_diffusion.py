"""The sampler against distributions whose perfect denoiser is known."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn import diffusion

# Hundreds of steps over thousands of rows: optimised, unlike the other tests' programs.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 2})
SCHEDULES = typing.get_args(diffusion.ScheduleName)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_from_data_to_noise(name):
    alphas_bar = diffusion.schedule(name, 1000)
    assert alphas_bar.shape == (1000,) and alphas_bar.dtype == np.float64
    assert (np.diff(alphas_bar) < 0).all()
    assert alphas_bar[0] > (0.95 if name == "sqrt" else 0.999)
    assert 0 < alphas_bar[-1] < 0.007


def test_schedules_by_hand():
    """Each formula written out for T = 2."""
    linear = diffusion.schedule("linear", 2, 0.1, 0.3)
    np.testing.assert_allclose(linear, [0.9, 0.9 * 0.7])
    exp = diffusion.schedule("exp", 2, 0.1, 10.0)  # b_t = 0.1 + x (9.9 / 4), x = 1 and 5
    rates = [0.05 + 1 * 0.5 * 9.9 / 4, 0.05 + 5 * 0.5 * 9.9 / 4]
    np.testing.assert_allclose(exp, [np.exp(-rates[0]), np.exp(-sum(rates))])
    cosine = diffusion.schedule("cosine", 2, 0, 0)
    half = np.cos(0.508 / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine, [half, half * 1e-4])  # the last beta is clipped
    sqrt = diffusion.schedule("sqrt", 2, 0, 0)
    first = (1 - np.sqrt(0.5001)) / (1 - np.sqrt(1e-4))
    np.testing.assert_allclose(sqrt, [first, first * 1e-3])
    with pytest.raises(ValueError, match="no schedule 'sine'"):
        diffusion.schedule("sine", 2, 0, 0)


def test_ancestral_coefficients_are_those_of_the_posterior():
    """Ho et al. 2020, equations 6 and 7, computed from the betas."""
    alphas_bar = diffusion.schedule("linear", 50, 1e-3, 0.2)
    places, table = diffusion.sampler_table(alphas_bar, 50, eta=1.0)
    np.testing.assert_array_equal(places, np.arange(50)[::-1])
    before = np.append(1.0, alphas_bar[:-1])
    beta = 1 - alphas_bar / before
    of_start = np.sqrt(before) * beta / (1 - alphas_bar)
    of_x = np.sqrt(1 - beta) * (1 - before) / (1 - alphas_bar)
    spread = np.sqrt(beta * (1 - before) / (1 - alphas_bar))
    expected = np.stack([of_start, of_x, spread], axis=1)[::-1]
    np.testing.assert_allclose(table, expected, atol=1e-6)
    np.testing.assert_allclose(table[-1], [1, 0, 0], atol=1e-7)  # the last step is the guess


def test_subsets_of_the_steps():
    alphas_bar = diffusion.schedule("cosine", 100, 0, 0)
    places, table = diffusion.sampler_table(alphas_bar, 7, eta=0.0)
    assert places[0] == 99 and places[-1] == 0 and len(np.unique(places)) == 7
    assert (table[:, 2] == 0).all()
    assert diffusion.sampler_table(alphas_bar, 1, 0.0)[0].tolist() == [99]
    for steps in (0, 101):
        with pytest.raises(ValueError, match="expected 1 to 100"):
            diffusion.sampler_table(alphas_bar, steps, 0.0)


def _gaussian(alphas_bar, mean, deviation):
    """E[x_0 | x_t] where x_0 ~ N(mean, deviation^2), coordinate by coordinate."""
    left = jnp.asarray(alphas_bar, jnp.float32)

    def denoise(x, t):
        a = left[t]
        gain = jnp.sqrt(a) * deviation**2 / (a * deviation**2 + 1 - a)
        return mean + gain * (x - jnp.sqrt(a) * mean)

    return denoise


@pytest.mark.parametrize(("name", "eta", "steps"), [("linear", 1.0, 1000), ("linear", 0.0, 100),
                                                    ("exp", 1.0, 500), ("cosine", 0.0, 100),
                                                    ("sqrt", 1.0, 1000)])  # fmt: skip
def test_samples_of_a_gaussian(name, eta, steps):
    """With the exact denoiser the samples have the data's mean and deviation.

    The last step returns E[x_0 | x_1], which is narrower than the data: by 4.5 % in "sqrt" where
    the data's deviation is 0.5, because its first step of 1000 adds 2.3 % of noise.
    """
    mean, deviation = jnp.array([1.5, -0.5, 0.0]), jnp.array([0.5, 1.0, 2.0])
    alphas_bar = diffusion.schedule(name, 1000 if eta == 0 else steps)
    rows = 20_000 if name == "sqrt" else 8_000  # it comes nearest to the bounds below
    noise = jax.random.normal(jax.random.key(0), (rows, 3))
    denoise = _gaussian(alphas_bar, mean, deviation)
    draw = compiled(
        lambda: diffusion.sample(denoise, noise, jax.random.key(1), alphas_bar, steps, eta)
    )
    x = np.asarray(draw())
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(x.std(0) / deviation, 1.0, atol=0.07)
    assert np.abs(np.corrcoef(x.T) - np.eye(3)).max() < 0.03


def test_samples_of_two_points_and_guidance_between_them():
    """Data at -1 (share 0.25) and +1: samples end on the points, in those shares."""
    alphas_bar = diffusion.schedule("linear", 400, 1e-4, 0.05)
    left = jnp.asarray(alphas_bar, jnp.float32)

    def denoise(x, t):
        a = left[t]
        # log odds of +1: prior, plus the likelihoods' difference 2 x sqrt(a) / (1 - a).
        odds = jnp.log(3.0) + 2 * jnp.sqrt(a) * x / (1 - a)
        return 2 * jax.nn.sigmoid(odds) - 1

    noise = jax.random.normal(jax.random.key(2), (20_000, 1))
    for eta, steps in ((1.0, 400), (0.0, 100)):
        draw = compiled(
            functools.partial(
                diffusion.sample, denoise, noise, jax.random.key(3), alphas_bar, steps, eta
            )
        )
        x = np.asarray(draw())
        assert (np.abs(np.abs(x) - 1) < 0.05).mean() > 0.98
        assert abs((x > 0).mean() - 0.75) < 0.02


def test_noise_keeps_the_variance():
    alphas_bar = diffusion.schedule("cosine", 10, 0, 0)
    x, noise = jax.random.normal(jax.random.key(0), (2, 50_000, 1))
    for t in (0, 5, 9):
        noised = diffusion.add_noise(x, noise, jnp.full(50_000, t), alphas_bar)
        assert float(noised.std()) == pytest.approx(1.0, abs=0.01)
        share = np.corrcoef(noised[:, 0], x[:, 0])[0, 1]
        assert share == pytest.approx(np.sqrt(alphas_bar[t]), abs=0.01)
