"""What `power.py` compares: one number a window for each method, higher meaning more drift.

Everything that depends on single rows (whitened values, features, kernel means, distribution functions,
cells) is computed once for all rows, so that thousands of windows cost little; each window's number is what
the method gives for it alone. `check` compares the exact MMD with `stats.mmd` for one window.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mlmon.stats.distances import corrected_psi
from mlmon.stats.fourier import FourierFeatures, fourier_mmd2
from mlmon.stats.mmd import median_bandwidth, mmd_test
from mlmon.stats.sums import FieldSums
from mlmon.stats.typicality import TypicalityNull, typicality, typicality_z
from mlmon.stats.whitening import ScatterSums, whitening

Windows = dict[str, np.ndarray]
Scores = dict[str, dict[str, np.ndarray]]

T2, BOTH = "**T², Ledoit-Wolf**", "**T² + typicality**"
#: Columns of the table by shift.
SHOWN = (
    BOTH,
    T2,
    "typicality",
    "RFF-MMD 512, whitened",
    "exact MMD",
    "Fréchet",
    "evidently: distance",
    "alibi-detect: MMD",
)
COMPONENTS, BINS = 32, 10


class Prepared:
    """The reference and what is known of each row."""

    def __init__(self, reference: np.ndarray, rows: np.ndarray) -> None:
        self.reference, self.rows = reference, rows
        sums = ScatterSums(reference.shape[1])
        sums.add(reference, np.ones(len(reference)))
        made = whitening(sums)
        mean = made.mean.astype(np.float32)
        self.white, self.white_reference = ((x - mean) @ made.matrix for x in (rows, reference))
        self.typical = typicality(rows, mean, made.matrix)
        held = typicality(reference, mean, made.matrix)
        self.null = TypicalityNull(float(held.mean()), float(held.var()), len(reference))
        self.bandwidth = median_bandwidth(reference)
        self.kernel_mean, self.kernel_inside = self._kernels()
        self.distribution = self._distribution(made.kept)
        self.cells, self.cells_reference = self._cells()
        covariance = np.cov(reference.T.astype(np.float64))
        values, vectors = np.linalg.eigh(covariance)
        self.root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        self.mean = reference.mean(0, dtype=np.float64)

    def _kernels(self) -> tuple[np.ndarray, float]:
        """Mean kernel of each row with the reference; of distinct pairs of the reference."""
        means = np.empty(len(self.rows))
        for start in range(0, len(self.rows), 1024):
            means[start : start + 1024] = self.kernel(self.rows[start : start + 1024], self.reference).mean(1)
        m = len(self.reference)
        total = sum(
            self.kernel(self.reference[start : start + 1024], self.reference).sum(dtype=np.float64)
            for start in range(0, m, 1024)
        )
        return means, float(total - m) / (m * (m - 1))

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
        return np.exp(squares / np.float32(-2 * self.bandwidth**2))

    def _distribution(self, kept: np.ndarray) -> np.ndarray:
        """The reference's distribution function at each row, dimension by dimension."""
        out = np.empty((len(self.rows), len(kept)), np.float32)
        for place, dimension in enumerate(kept):
            known = np.sort(self.reference[:, dimension])
            out[:, place] = np.searchsorted(known, self.rows[:, dimension], side="right") / len(known)
        return out

    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Quantile bin of each row along each of the first principal components, numbered through."""
        centre = self.reference.mean(0)
        _, vectors = np.linalg.eigh(np.cov((self.reference - centre).T))
        axes = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        known, rows = (self.reference - centre) @ axes, (self.rows - centre) @ axes
        out = []
        for points in (rows, known):
            cells = np.empty(points.shape, np.int32)
            for j in range(COMPONENTS):
                edges = np.quantile(known[:, j], np.arange(1, BINS) / BINS)
                cells[:, j] = np.searchsorted(edges, points[:, j]) + BINS * j
            out.append(cells)
        return out[0], np.bincount(out[1].ravel(), minlength=COMPONENTS * BINS).reshape(COMPONENTS, BINS)


def means(features: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Mean of the features of each window's rows, shape (windows, columns)."""
    count, n = windows.shape
    pick = sparse.csr_matrix(
        (np.full(count * n, 1 / n, np.float32), windows.ravel(), np.arange(count + 1) * n),
        shape=(count, len(features)),
    )
    return np.asarray(pick @ features)


def each(windows: Windows, score: object) -> dict[str, np.ndarray]:
    """One score a window, by kind."""
    assert callable(score)
    return {name: np.array([score(window) for window in array]) for name, array in windows.items()}


# -- Fast ----------------------------------------------------------------------------------------------


def fast(prepared: Prepared, windows: Windows) -> Scores:
    """What is linear in the rows, or nearly."""
    n = len(windows["null"][0])
    shift = {
        name: (means(prepared.white, array).astype(np.float64) ** 2).sum(1) for name, array in windows.items()
    }
    z = each(windows, lambda window: typicality_z(_scalar(prepared.typical[window]), prepared.null))
    # W was estimated from the reference, which therefore lies closer in than windows do
    centre = z["null"].mean()
    z = {name: values - centre for name, values in z.items()}
    out: Scores = {T2: shift, "typicality": {name: np.abs(values) for name, values in z.items()}}
    out[BOTH] = _both(shift, z)
    plain, white = prepared.reference, prepared.white_reference
    spread = median_bandwidth(white)
    for label, rows, reference, features, bandwidth in (
        ("RFF-MMD 512", prepared.rows, plain, 512, prepared.bandwidth),
        ("RFF-MMD 2048", prepared.rows, plain, 2048, prepared.bandwidth),
        ("RFF-MMD 512, whitened", prepared.white, white, 512, spread),
    ):
        z_map = FourierFeatures(rows.shape[1], features, bandwidth)
        known = FieldSums(features)
        z_map.add_to(known, reference, np.ones(len(reference)))
        made = np.concatenate([z_map(rows[i : i + 4096]) for i in range(0, len(rows), 4096)])
        out[label] = {
            name: np.array([fourier_mmd2(_sums(mean, n), known) for mean in means(made, array)])
            for name, array in windows.items()
        }
    out["PCA-32, mean PSI"] = each(windows, lambda window: _psi(prepared, window))
    return out


def _scalar(values: np.ndarray) -> FieldSums:
    sums = FieldSums(1)
    sums.add_values(values, np.ones(len(values)))
    return sums


def _sums(mean: np.ndarray, n: int) -> FieldSums:
    sums = FieldSums(len(mean))
    sums.add_total(mean.astype(np.float64) * n, np.ones(n))
    return sums


def _both(shift: dict[str, np.ndarray], z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The smaller of two p-values: T² by Satterthwaite's chi-square, typicality by the normal law."""
    null = shift["null"]
    scale = null.var() / (2 * null.mean())
    width = z["null"].std()
    return {
        name: -np.minimum(
            stats.chi2.logsf(shift[name] / scale, null.mean() / scale),
            np.log(2) + stats.norm.logsf(np.abs(z[name]) / width),
        )
        for name in shift
    }


def _psi(prepared: Prepared, window: np.ndarray) -> float:
    counts = np.bincount(prepared.cells[window].ravel(), minlength=COMPONENTS * BINS)
    sizes = np.full(COMPONENTS, float(len(window)))
    m = np.full(COMPONENTS, float(len(prepared.reference)))
    return float(corrected_psi(counts.reshape(COMPONENTS, BINS), prepared.cells_reference, sizes, m).mean())


# -- Slow ----------------------------------------------------------------------------------------------


def slow(prepared: Prepared, windows: Windows) -> Scores:
    """What looks at pairs, at each dimension by itself, or fits something."""
    check(prepared, windows["null"][0])
    rng = np.random.default_rng(0)
    return {
        "exact MMD": each(windows, lambda window: exact_mmd2(prepared, window)),
        "Fréchet": each(windows, lambda window: frechet(prepared, prepared.rows[window])),
        "domain classifier": each(windows, lambda window: classifier(prepared, prepared.rows[window], rng)),
        "per-dimension max KS": each(windows, lambda window: max_ks(prepared.distribution[window])),
    }


def check(prepared: Prepared, window: np.ndarray) -> None:
    """The exact MMD of one window from the prepared means is that of `mmd_test`."""
    exact = mmd_test(
        prepared.rows[window], prepared.reference, permutations=0, bandwidth=prepared.bandwidth, device="cpu"
    )
    found = exact_mmd2(prepared, window)
    assert abs(exact.mmd2 - found) < 1e-6, (exact.mmd2, found)


def exact_mmd2(prepared: Prepared, window: np.ndarray) -> float:
    n, points = len(window), prepared.rows[window]
    inside = (float(prepared.kernel(points, points).sum(dtype=np.float64)) - n) / (n * (n - 1))
    return inside + prepared.kernel_inside - 2 * float(prepared.kernel_mean[window].mean())


def frechet(prepared: Prepared, points: np.ndarray) -> float:
    mean = points.mean(0, dtype=np.float64)
    away = (points - mean) / np.sqrt(len(points) - 1)
    product = away @ prepared.root
    square = product @ product.T if len(product) < product.shape[1] else product.T @ product
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(square), 0)).sum()
    spread = (away**2).sum() + (prepared.root**2).sum() - 2 * overlap
    return float(((mean - prepared.mean) ** 2).sum() + spread)


def classifier(prepared: Prepared, points: np.ndarray, rng: np.random.Generator) -> float:
    """Area under the curve of a logistic regression, window against as many rows of the reference."""
    n = len(points)
    other = prepared.reference[rng.choice(len(prepared.reference), n, replace=False)]
    order = rng.permutation(2 * n)
    x, y = np.concatenate([points, other])[order], (order < n).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=100).fit(x[:n], y[:n])
    return float(roc_auc_score(y[n:], model.decision_function(x[n:])))


def max_ks(distribution: np.ndarray) -> float:
    n = len(distribution)
    ordered = np.sort(distribution, axis=0)
    steps = np.arange(n + 1, dtype=np.float32)[:, None] / n
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
