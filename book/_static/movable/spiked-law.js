/* The singular values of a p x n noise matrix with one planted signal, in the limit of large matrices.

   In units of σ √n, with the aspect ratio c = p/n: a singular value s of these is σ s √n in the matrix, and s² is an
   eigenvalue of YYᵀ/n in units of σ². The formulas of companion.marchenko_pastur; tests/test_movable_figures.py compares
   the two. Equations are named by their label in the chapter "Marchenko–Pastur: what noise looks like". */
const spikedLaw = {
  /* eq-mp-density: ends of the continuous part, as singular values, |1 - √c| and 1 + √c. */
  support(c) {
    return [Math.abs(1 - c) / (1 + Math.sqrt(c)), 1 + Math.sqrt(c)];
  },

  /* eq-mp-density: mass at zero. */
  atom(c) {
    return Math.max(0, 1 - 1 / c);
  },

  /* eq-mp-density: density of the eigenvalues x = s² inside the support. */
  density(x, c) {
    const [low, high] = spikedLaw.support(c).map((s) => s ** 2);
    return (Math.sqrt(high - x) * (Math.sqrt(x - low) / x)) / (2 * Math.PI * c);
  },

  /* The same for the singular values, 2 s f(s²); its limit where the support begins at zero. */
  singularDensity(s, c) {
    const [low, high] = spikedLaw.support(c);
    if (s < low || s > high) return 0;
    const left = low > 0 ? Math.sqrt((s - low) * (s + low)) / s : 1;
    return (left * Math.sqrt((high - s) * (high + s))) / (Math.PI * c);
  },

  /* The smallest planted value that is seen, (pn)^¼ in the units of the matrix (theorem thm-mp-spikes). */
  threshold(c) {
    return c ** 0.25;
  },

  /* eq-mp-spike, first line: the top singular value for a planted one. */
  observed(planted, c) {
    const s = Math.max(planted, spikedLaw.threshold(c));
    return Math.hypot(s, Math.sqrt(c)) * (Math.hypot(s, 1) / s);
  },

  /* eq-mp-spike, second line: squared cosines of planted and observed singular vectors, of length p and of length n. */
  overlaps(planted, c) {
    const threshold = spikedLaw.threshold(c);
    if (planted <= threshold) return [0, 0];
    const clear = 1 - (threshold / planted) ** 4;
    return [clear / (1 + c / planted ** 2), clear / (1 + 1 / planted ** 2)];
  },
};
