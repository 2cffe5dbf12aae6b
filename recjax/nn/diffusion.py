"""Diffusion on vectors: noise schedules and one sampler (Ho et al. 2020; Song et al. 2021).

Letters: T diffusion steps, S sampling steps. `alphas_bar` [T] is the share of the signal's
variance that is left after step t = 0 .. T-1 (the papers count from 1).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from recjax.typing import Array

ScheduleName = Literal["linear", "cosine", "exp", "sqrt"]
# DreamRec's ranges (the authors' code); the other schedules have none.
BETAS = {"linear": (1e-4, 0.02), "exp": (0.1, 10.0)}


def schedule(
    name: ScheduleName, steps: int, beta_min: float | None = None, beta_max: float | None = None
) -> np.ndarray:
    """`alphas_bar` [T] in float64.

    - linear: beta_t from `beta_min` to `beta_max` (Ho et al. 2020).
    - exp: the variance-preserving SDE's, `beta_t = 1 - exp(-b_t / T)`, b_t linear from `beta_min`
      to `beta_max` (Song et al. 2021, equation 32).
    - cosine: `alpha_bar = cos^2((t / T + 0.008) / 1.008 * pi / 2)` (Nichol and Dhariwal 2021).
    - sqrt: `alpha_bar = 1 - sqrt(t / T + 1e-4)` (Li et al. 2022).

    Args:
        name: of the schedule.
        steps: T.
        beta_min, beta_max: range of linear and exp; by default that of `BETAS`.

    Raises:
        ValueError: an unknown name.
    """
    low, high = BETAS.get(name, (0.0, 0.0))
    beta_min = low if beta_min is None else beta_min
    beta_max = high if beta_max is None else beta_max
    times = np.arange(1, steps + 1) / steps
    if name == "linear":
        return np.cumprod(1 - np.linspace(beta_min, beta_max, steps))
    if name == "exp":
        rate = np.linspace(1, 2 * steps + 1, steps) * 0.5 * (beta_max - beta_min) / steps
        return np.exp(-np.cumsum((beta_min + rate) / steps))
    if name == "cosine":

        def alpha_bar(t):
            return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

        alphas = alpha_bar(times) / alpha_bar(times - 1 / steps)
        return np.cumprod(1 - np.clip(1 - alphas, 1e-4, 0.9999))
    if name == "sqrt":
        alphas_bar = 1 - np.sqrt(np.append(1e-4, times + 1e-4))
        return np.cumprod(1 - np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], 0.999))
    raise ValueError(f"no schedule '{name}'")


def add_noise(x: Array, noise: Array, step: Array, alphas_bar: np.ndarray) -> Array:
    """`x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise` (Ho et al. 2020, equation 4).

    Args:
        x, noise: [n D].
        step: [n] t.
        alphas_bar: of `schedule`.
    """
    alpha_bar = jnp.asarray(alphas_bar, x.dtype)[step][:, None]
    return jnp.sqrt(alpha_bar) * x + jnp.sqrt(1 - alpha_bar) * noise


def sampler_table(alphas_bar: np.ndarray, steps: int, eta: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps [S] from noise to data, and the coefficients [S 3] of each: x_0, x_t, fresh noise.

    Song et al. 2021 (DDIM), equations 12 and 16, over a subset of the steps. `eta` 1 with all
    steps is the ancestral sampler (the posterior of Ho et al. 2020, equations 6 and 7); 0 adds no
    noise on the way.

    Args:
        alphas_bar: of `schedule`.
        steps: S, at most T.
        eta: share of the posterior's noise.

    Raises:
        ValueError: S below 1 or above T.
    """
    if not 1 <= steps <= len(alphas_bar):
        raise ValueError(f"{steps} sampling steps; expected 1 to {len(alphas_bar)}")
    places = np.linspace(0, len(alphas_bar) - 1, steps).round().astype(int)
    if steps == 1:
        places = np.array([len(alphas_bar) - 1])
    alpha_bar = alphas_bar[places]
    previous = np.append(1.0, alpha_bar[:-1])  # alpha_bar of the step that follows, nearer to data
    variance = eta**2 * (1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous)
    x_t = np.sqrt(np.maximum(1 - previous - variance, 0) / (1 - alpha_bar))
    x_0 = np.sqrt(previous) - x_t * np.sqrt(alpha_bar)
    table = np.stack([x_0, x_t, np.sqrt(variance)], axis=1)
    return places[::-1].astype(np.int32), table[::-1].astype(np.float32)


def noise_of(key: Array, shape: tuple[int, ...], dtype: Any, fold: Array | None = None) -> Array:
    """Standard normal numbers [n D].

    Args:
        key: of all of them, or [n], one a row: a row's numbers then do not depend on the others.
        shape: (n, D).
        dtype: of the numbers.
        fold: a number that goes into each key first.
    """
    if key.ndim:
        return jax.vmap(lambda key: noise_of(key, shape[1:], dtype, fold))(key)
    return jax.random.normal(key if fold is None else jax.random.fold_in(key, fold), shape, dtype)


def sample(
    denoise: Callable[[Array, Array], Array],
    noise: Array,
    key: Array,
    alphas_bar: np.ndarray,
    steps: int,
    eta: float,
    embed: Callable[[Array], Array] = lambda t: t,
) -> Array:
    """Draws vectors [n D]: one scan from pure noise to data.

    Args:
        denoise: `(x_t [n D], embed(t)) -> x_0 [n D]`, the guess of the data.
        noise: [n D] standard normal, the start.
        key: of the noise on the way, or [n], one a row.
        alphas_bar, steps, eta: see `sampler_table`.
        embed: prepares t for `denoise`; it is called once, with all steps [S].
    """
    places, table = sampler_table(alphas_bar, steps, eta)

    def step(x: Array, inputs: tuple[Array, Array, Array]):
        t, embedded, coefficients = inputs
        x = coefficients[0] * denoise(x, embedded) + coefficients[1] * x
        if eta:
            x += coefficients[2] * noise_of(key, x.shape, x.dtype, t)
        return x, None

    times = jnp.asarray(places)
    return jax.lax.scan(step, noise, (times, embed(times), jnp.asarray(table, noise.dtype)))[0]
