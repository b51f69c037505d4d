"""L1-penalised logistic regression on soft labels, many weighted replicates at once: the bootstrap's solver.

Minimises  C * sum_i w_i * cross_entropy(p_i, sigmoid(x_i . b)) + |b|_1  for each replicate by proximal Newton steps;
three features, so each step's quadratic problem is solved by a few dozen coordinate sweeps on arrays of replicates.
"""

from __future__ import annotations

import numpy as np

from .intervals import FloatArray

STEPS = 30
SWEEPS = 60
TOLERANCE = 1e-8
"""Largest change of a coefficient at which all replicates are done."""
SMALLEST_CURVATURE = 1e-12


def sigmoid(values: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow, for any shape."""
    probabilities: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return probabilities


def fit_replicates(
    *,
    varying: FloatArray,
    shared: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    start: FloatArray,
    strength: float,
) -> FloatArray:
    """Return the fitted coefficients, shape (3, replicates).

    varying (rows, replicates): the first feature, which differs between replicates; shared (rows, 2): the other two;
    target (rows,): probabilities; weight (rows, replicates); start (3,); strength: C.
    """
    replicates = varying.shape[1]
    coefficients = np.repeat(start[:, None], replicates, axis=1)
    loss = _loss(varying, shared, target, weight, coefficients, strength)
    for _ in range(STEPS):
        gradient, curvature = _derivatives(varying, shared, target, weight, coefficients, strength)
        step = _solve_quadratic(gradient, curvature, coefficients) - coefficients
        scale = np.ones(replicates)
        for _ in range(20):
            tried = coefficients + scale * step
            tried_loss = _loss(varying, shared, target, weight, tried, strength)
            worse = tried_loss > loss + 1e-10 * np.abs(loss)
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        moved = np.max(np.abs(tried - coefficients))
        coefficients, loss = tried, tried_loss
        if moved < TOLERANCE:
            break
    return coefficients


def _logits(varying: FloatArray, shared: FloatArray, coefficients: FloatArray) -> FloatArray:
    logits: FloatArray = varying * coefficients[0] + shared @ coefficients[1:]
    return logits


def _loss(
    varying: FloatArray,
    shared: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    coefficients: FloatArray,
    strength: float,
) -> FloatArray:
    """Return the penalised loss of each replicate, shape (replicates,)."""
    logits = _logits(varying, shared, coefficients)
    # cross entropy of a soft label: log(1 + exp(z)) - p z
    entropy = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits))) - target[:, None] * logits
    loss: FloatArray = strength * np.einsum("ij,ij->j", weight, entropy) + np.abs(coefficients).sum(axis=0)
    return loss


def _derivatives(
    varying: FloatArray,
    shared: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    coefficients: FloatArray,
    strength: float,
) -> tuple[FloatArray, FloatArray]:
    """Return gradient (3, replicates) and Hessian (3, 3, replicates) of the loss without the penalty."""
    fitted = sigmoid(_logits(varying, shared, coefficients))
    residual = strength * weight * (fitted - target[:, None])
    bend = strength * weight * fitted * (1 - fitted)
    gradient = np.concatenate([np.einsum("ij,ij->j", varying, residual)[None], shared.T @ residual])
    hessian = np.empty((3, 3, varying.shape[1]))
    hessian[0, 0] = np.einsum("ij,ij,ij->j", varying, varying, bend)
    hessian[0, 1:] = hessian[1:, 0] = shared.T @ (varying * bend)
    for feature in range(2):
        hessian[1 + feature, 1:] = (shared * shared[:, feature : feature + 1]).T @ bend
    return gradient, hessian


def _solve_quadratic(gradient: FloatArray, hessian: FloatArray, at: FloatArray) -> FloatArray:
    """Return the b that minimises g.(b - at) + (b - at)' H (b - at) / 2 + |b|_1 in each replicate: coordinate
    descent."""
    solution = at.copy()
    for _ in range(SWEEPS):
        before = solution.copy()
        for k in range(3):
            slope = gradient[k] + np.einsum("ij,ij->j", hessian[k], solution - at)
            bend = np.maximum(hessian[k, k], SMALLEST_CURVATURE)
            free = solution[k] - slope / bend
            solution[k] = np.sign(free) * np.maximum(np.abs(free) - 1.0 / bend, 0.0)
        if np.max(np.abs(solution - before)) < TOLERANCE / 10:
            break
    return solution
