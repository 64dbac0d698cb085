/* One mode of gradient flow from an aligned start, and what P2 prints for it.

   The formulas of companion.scalar_flow and companion.tanh_law, written so that no digits are lost for seeds from 1e-16
   to 100; tests/test_movable_figures.py compares the two. Numbers of equations are those of the two drafts (P2) and of
   the chapter "tanh² or logistic? The exact dynamics" (by the label of the equation there). */
const scalarLaw = {
  /* Strengths of the modes: each is `ratio` times the one before. */
  strengths(first, ratio, count) {
    return Array.from({ length: count }, (_, i) => first * ratio ** i);
  },

  /* eq-dyn-closed: the solution of dΦ/dt = (λ - Φ) sqrt(4Φ² + k²), Φ(0) = 0, for λ > 0 and a seed k > 0. */
  amplitude(t, lambda, k) {
    const w = Math.hypot(lambda, k / 2);
    const ceiling = 2 * (lambda + lambda ** 2 / (w + k / 2)); // k (y₊ - 1)
    const slope = ceiling / (1 + k / (2 * (lambda + w)));
    const height = (k * ceiling * -Math.expm1(-2 * w * t)) / (k + slope * Math.exp(-2 * w * t)); // k (y - 1)
    return (height * (1 + k / (k + height))) / 4;
  },

  /* eq-dyn-closed solved for t: when a mode has reached a fraction of its strength; eq-dyn-logistic for small k. */
  activationTime(lambda, k, fraction = 0.5) {
    const w = Math.hypot(lambda, k / 2);
    const ceiling = 2 * (lambda + lambda ** 2 / (w + k / 2));
    const x = 2 * fraction * lambda;
    const height = x + x ** 2 / (Math.hypot(k, x) + k);
    const lower = k / (2 * (lambda + w)); // -y₋
    const odds = Math.log(ceiling) - Math.log(k) + Math.log(height + k * (1 + lower))
      - Math.log((1 + lower) * (ceiling - height));
    return odds / (2 * w);
  },

  /* The angle θ of the printed law λ tanh² θ; of an aligned start ρ = 1, so the printed shift c is log ε. */
  angle: {
    theorem: (t, lambda, eps) => (lambda ** 2 * t + Math.log(eps)) / Math.SQRT2, // P2 eq. 4
    abstract: (t, lambda) => (lambda ** 2 * t) / Math.SQRT2, // P2 abstract
    appendix: (t, lambda, eps) => (lambda * t) / Math.SQRT2 + Math.log(eps), // P2 eq. 19
    openreview: (t, lambda) => (lambda * t) / Math.SQRT2, // the abstract of another public version
  },

  /* P2 theorem 4.2 and its other forms; one-sided: 0 as long as the angle is negative. */
  printed(t, lambda, eps, form = "theorem", oneSided = false) {
    const angle = scalarLaw.angle[form](t, lambda, eps);
    return lambda * Math.tanh(oneSided ? Math.max(angle, 0) : angle) ** 2;
  },

  /* When the angle of a printed form is zero, and with it the printed curve. */
  printedZero(lambda, eps, form = "theorem") {
    const start = scalarLaw.angle[form](0, lambda, eps);
    return -start / (scalarLaw.angle[form](1, lambda, eps) - start);
  },

  /* P2 theorem 4.2(b): sqrt(2) / λ² log(1/ε). */
  printedHalfTime(lambda, eps) {
    return (-Math.SQRT2 / lambda ** 2) * Math.log(eps);
  },

  /* From 10 % to 90 % of λ takes log(81) / (2λ) for a small seed (below eq-dyn-logistic). */
  riseTime(lambda) {
    return Math.log(81) / (2 * lambda);
  },
};
