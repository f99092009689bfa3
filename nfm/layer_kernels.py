"""The compiled loops of the layers; ``nfm.layers`` holds their plain twin.

All but ``linear`` are batch norm, ReLU and dropout; ``forward`` alone, without dropout, predicts.

Forwards, one sweep over [B, H] sums its columns and one writes the result; backwards, one sweep
sums the gradient's columns and one takes out what flows through mean and variance. Column sums are
added up in float64, first over fixed pieces of the rows: so they depend neither on the distance of
the values from zero nor on the number of threads. Dropout's mask is a function of a seed and of an
element's place, so it is never stored: the way back computes it again, or sees it in the result.

Shapes: B = rows of the batch, H = columns, O = outputs of a linear layer; ``norm_4H`` holds the
rows mean, weight * rstd, bias and rstd, where rstd = 1 / sqrt(var + eps): the result is
(x - mean) * (weight * rstd) + bias.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, prange

Array = npt.NDArray[Any]

# Sums may be reordered into vector lanes; NaN must stay NaN, for the trainer looks for it.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_CHUNKS = 16  # more cores than that cannot share a sweep; each costs a row of partial sums
_HASHES = 2.0**32


@njit(nogil=True, cache=True)
def _hash(seed: Any, element: Any) -> Any:
    """A number in [0, 2^32) for an element: lowbias32 (Wellons 2018) of a counter.

    The counter starts and steps as the seed says, so the masks of two seeds have no stretch in
    common. lowbias32 ends by xoring the upper half into the lower one; without that, the lower
    half is less random, and the comparison with a threshold hardly looks at it.
    """
    step = np.uint32(seed >> 31) | np.uint32(1)
    bits = np.uint32(seed) + np.uint32(element) * step
    bits = np.uint32(bits)
    bits = np.uint32((bits ^ (bits >> 16)) * np.uint32(0x21F0AAAD))
    return np.uint32((bits ^ (bits >> 15)) * np.uint32(0xD35A2D97))


@njit(parallel=True, nogil=True, fastmath=_FAST, cache=True)
def column_sums(x_BH: Array) -> Array:
    """Sum and sum of squares of each column, then the number of rows: float64 [2 H + 1]."""
    rows, width = x_BH.shape
    partial = np.empty((_CHUNKS, 2 * width + 1))
    for chunk in prange(_CHUNKS):
        partial[chunk] = 0
        for b in range(chunk * rows // _CHUNKS, (chunk + 1) * rows // _CHUNKS):
            for h in range(width):
                x = np.float64(x_BH[b, h])
                partial[chunk, h] += x
                partial[chunk, width + h] += x * x
    total: Array = partial.sum(axis=0)
    total[2 * width] = rows
    return total


@njit(nogil=True, cache=True)
def normaliser(
    sums: Array,
    weight_H: Array,
    bias_H: Array,
    eps: float,
    running_mean_H: Array,
    running_var_H: Array,
    momentum: float,
) -> Array:
    """The ``norm_4H`` of a batch with these column sums; updates the running statistics."""
    width = len(weight_H)
    rows = max(sums[2 * width], 1.0)  # a worker of its own may have none
    norm_4H = np.empty((4, width), weight_H.dtype)
    for h in range(width):
        mean = sums[h] / rows
        var = sums[width + h] / rows - mean * mean
        if var < 0:
            var = 0.0
        rstd = 1 / np.sqrt(var + eps)
        norm_4H[0, h], norm_4H[1, h] = mean, weight_H[h] * rstd
        norm_4H[2, h], norm_4H[3, h] = bias_H[h], rstd
        if rows > 1:  # one row has no variance to learn from
            running_mean_H[h] += momentum * (mean - running_mean_H[h])
            running_var_H[h] += momentum * (var * rows / (rows - 1) - running_var_H[h])
    return norm_4H


@njit(nogil=True, cache=True)
def running_normaliser(
    weight_H: Array, bias_H: Array, eps: float, running_mean_H: Array, running_var_H: Array
) -> Array:
    """The ``norm_4H`` of the running statistics."""
    norm_4H = np.empty((4, len(weight_H)), weight_H.dtype)
    for h in range(len(weight_H)):
        rstd = 1 / np.sqrt(running_var_H[h] + eps)
        norm_4H[0, h], norm_4H[1, h] = running_mean_H[h], weight_H[h] * rstd
        norm_4H[2, h], norm_4H[3, h] = bias_H[h], rstd
    return norm_4H


@njit(nogil=True, fastmath=_FAST, cache=True)
def linear(x_BH: Array, weight_OH: Array, bias_O: Array, out_BO: Array) -> None:
    """A linear layer of few outputs, each row by itself; writes ``out_BO``."""
    for b in range(len(x_BH)):
        for o in range(len(bias_O)):
            total = bias_O[o]
            for h in range(x_BH.shape[1]):
                total += x_BH[b, h] * weight_OH[o, h]
            out_BO[b, o] = total


@njit(parallel=True, nogil=True, fastmath=_FAST, cache=True)
def forward(
    x_BH: Array, norm_4H: Array, relu: bool, dropped: int, seed: int, out_BH: Array
) -> None:
    """Normalise, rectify if ``relu``, drop at the rate ``dropped / 2^32``; writes ``out_BH``."""
    rows, width = x_BH.shape
    mean_H, scale_H, bias_H = norm_4H[0], norm_4H[1], norm_4H[2]
    zero, kept = x_BH.dtype.type(0), x_BH.dtype.type(_HASHES / (_HASHES - dropped))
    threshold = np.uint32(dropped)
    for chunk in prange(_CHUNKS):
        for b in range(chunk * rows // _CHUNKS, (chunk + 1) * rows // _CHUNKS):
            for h in range(width):
                y = (x_BH[b, h] - mean_H[h]) * scale_H[h] + bias_H[h]
                if relu and y < 0:
                    y = zero
                if dropped > 0:
                    y *= kept if _hash(seed, b * width + h) >= threshold else zero
                out_BH[b, h] = y


@njit(parallel=True, nogil=True, fastmath=_FAST, cache=True)
def backward(
    grad_BH: Array,
    x_BH: Array,
    y_BH: Array,
    norm_4H: Array,
    relu: bool,
    dropped: int,
    seed: int,
    out_BH: Array,
) -> Array:
    """The gradient before dropout and activation; writes ``out_BH``.

    ``y_BH`` is what ``forward`` wrote. Where it rectified, a 0 there tells what was dropped or
    negative, and no mask is computed again; without, a 0 may also be a result.

    Returns:
        Its sum and its product with the normalised x, summed, of each column: the gradients of
        bias and weight, float64 [2 H].
    """
    rows, width = x_BH.shape
    mean_H = norm_4H[0]
    zero, kept = x_BH.dtype.type(0), x_BH.dtype.type(_HASHES / (_HASHES - dropped))
    threshold = np.uint32(dropped)
    partial = np.empty((_CHUNKS, 2 * width))
    for chunk in prange(_CHUNKS):
        partial[chunk] = 0
        for b in range(chunk * rows // _CHUNKS, (chunk + 1) * rows // _CHUNKS):
            for h in range(width):
                g = grad_BH[b, h]
                if relu:
                    g = zero if y_BH[b, h] == 0 else g * kept
                elif dropped > 0:
                    g *= kept if _hash(seed, b * width + h) >= threshold else zero
                out_BH[b, h] = g
            for h in range(width):
                g = np.float64(out_BH[b, h])
                partial[chunk, h] += g
                partial[chunk, width + h] += g * (x_BH[b, h] - mean_H[h])
    total: Array = partial.sum(axis=0)
    for h in range(width):
        total[width + h] *= norm_4H[3, h]
    return total


@njit(parallel=True, nogil=True, fastmath=_FAST, cache=True)
def through_statistics(
    grad_BH: Array, x_BH: Array, norm_4H: Array, sums: Array, rows: float
) -> None:
    """From the gradient of the result to that of x, in place (Ioffe & Szegedy 2015, sec. 3).

    ``weight rstd (g - sum(g) / n - x' sum(g x') / n)``, with x' the normalised x and ``sums`` what
    ``backward`` returns, both over all ``rows`` that share mean and variance.
    """
    width = x_BH.shape[1]
    mean_H, scale_H = norm_4H[0], norm_4H[1]
    offset_H, slope_H = np.empty_like(mean_H), np.empty_like(mean_H)
    for h in range(width):
        offset_H[h] = sums[h] / rows
        slope_H[h] = sums[width + h] * norm_4H[3, h] / rows
    for b in prange(len(x_BH)):
        for h in range(width):
            through = offset_H[h] + (x_BH[b, h] - mean_H[h]) * slope_H[h]
            grad_BH[b, h] = (grad_BH[b, h] - through) * scale_H[h]
