/* The figure of the chapter on exact dynamics: start and spectrum move, the trajectories of five modes follow. */
(() => {
  "use strict";
  const MODES = 5;
  const FIRST = 3; // the strength of the first mode, as in the chapter
  const POINTS = 1200;
  const DECADES = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]; // of the logarithmic axis
  const FLOOR = DECADES[0];
  const { say, colour } = movable;

  /* The next larger number with one simple digit, so that the time axis stays put while curves move on it. */
  function ceiling(t) {
    const power = 10 ** Math.floor(Math.log10(t));
    return power * [1, 1.5, 2, 3, 5, 7, 10].find((step) => t <= step * power * (1 + 1e-9));
  }

  /* Everything the figure shows at one position. */
  function position({ eps: exponent, ratio, form, one: oneSided }) {
    const eps = 10 ** exponent;
    const seed = eps ** 2;
    const modes = scalarLaw.strengths(FIRST, ratio, MODES).map((lambda) => ({
      lambda, half: scalarLaw.activationTime(lambda, seed), printed: scalarLaw.printedHalfTime(lambda, eps),
    }));
    const end = ceiling(1.1 * scalarLaw.activationTime(modes[MODES - 1].lambda, seed, 0.97));
    const zeros = modes.map(({ lambda }) => scalarLaw.printedZero(lambda, eps, form)).filter((t) => t > 0 && t < end);
    const times = [...Array.from({ length: POINTS + 1 }, (_, i) => (end * i) / POINTS), ...zeros].sort((a, b) => a - b);
    const exact = modes.map(({ lambda }) => times.map((t) => scalarLaw.amplitude(t, lambda, seed)));
    const printed = modes.map(({ lambda }) => times.map((t) => scalarLaw.printed(t, lambda, eps, form, oneSided)));
    const miss = Math.max(...modes.map(({ lambda }, i) => Math.max(
      ...exact[i].map((value, j) => Math.abs(value - printed[i][j]) / lambda))));
    return { eps, modes, end, times, exact, printed, miss };
  }

  /* What one sees, in words. */
  function sentence({ eps, modes, printed, miss }) {
    const [first, last] = [modes[0], modes[MODES - 1]];
    const apart = modes.every(({ lambda, half }, i) => i === 0 || half - modes[i - 1].half >= scalarLaw.riseTime(lambda));
    const share = (100 * printed[0][0]) / first.lambda;
    return `From a start of scale ${say(eps)} the first mode (strength ${say(first.lambda)}) is half learned at t = `
      + `${say(first.half)}, the fifth (strength ${say(last.lambda)}) at t = ${say(last.half)}; `
      + (apart ? "each mode comes a rise time or more after the one before. " : "modes overlap. ")
      + `Theorem 4.2(b) prints ${say(first.printed)} and ${say(last.printed)}. `
      + `At t = 0, where nothing is learned, the printed curves stand at ${say(share)} % of the strengths; `
      + `in this window they are off by up to ${say(100 * miss, 2)} % of a strength.`;
  }

  function build(stage) {
    const table = movable.table("Half-times (1 / unit of λ)", ["Mode", "Strength", "Exact", "Theorem 4.2(b)"]);
    let now = null;
    let made = null;

    /* Numbered rings where the modes are half learned. */
    const rings = movable.onTop((ctx, x, y, pixel) => {
      ctx.lineWidth = 2 * pixel;
      ctx.font = `${11 * pixel}px ${getComputedStyle(document.body).fontFamily}`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      now.modes.forEach(({ lambda, half }, i) => {
        const at = [x(half), y(lambda / 2)];
        ctx.beginPath();
        ctx.arc(...at, 8.5 * pixel, 0, 2 * Math.PI);
        ctx.fillStyle = colour("--movable-ground")();
        ctx.fill();
        ctx.strokeStyle = colour(`--movable-mode-${i + 1}`)();
        ctx.stroke();
        ctx.fillStyle = colour("--movable-text")();
        ctx.fillText(String(i + 1), at[0], at[1] + 0.5 * pixel);
      });
    });
    const series = [1, 2, 3, 4, 5].map((i) => ({ stroke: colour(`--movable-mode-${i}`), width: 2.2 }));
    const dashed = series.map((one) => ({ ...one, width: 1.4, dash: [6, 4] }));

    function renew(log) {
      made?.place.remove();
      made?.plot.destroy();
      made = movable.plot("Singular values of five modes against time: full lines exact, dashed lines as printed", 340, {
        scales: {
          x: { time: false, range: () => [0, now?.end ?? 1] },
          y: log ? { distr: 3, range: () => [FLOOR, 5] } : { range: () => [0, 1.06 * FIRST] },
        },
        axes: [{ label: "time t (1 / unit of λ)", size: 28 }, { label: "singular value", size: 44, ...(log ? { splits: () => DECADES } : {}) }],
        series: [...dashed, ...series],
        hooks: { draw: [(u) => { if (now) rings(u); }] },
      });
      made.log = log;
      stage.prepend(made.place);
    }
    const visible = (curve) => (made.log ? curve.map((value) => Math.max(value, FLOOR / 10)) : curve);
    const redraw = () => made.plot.redraw(false);

    renew(false);
    stage.append(movable.make("div", { class: "movable-key" },
      ...movable.key(["line", "exact (scalar law)"], ["dashed", "as printed"], ["ring", "half learned"])));
    return {
      redraw,
      numbers: table.element,
      update: (values) => {
        if (values.log !== made.log) renew(values.log);
        now = position(values);
        made.plot.setData([now.times, ...now.printed.map(visible), ...now.exact.map(visible)]);
        table.write(now.modes.map(({ lambda, half, printed }, i) => ({
          mark: `ring mode-${i + 1}`, text: String(i + 1), cells: [say(lambda), say(half), say(printed)],
        })));
        return sentence(now);
      },
    };
  }

  movable.figure("trajectories", {
    title: "Figure to move: from the start and the spectrum to the trajectories",
    settings: {
      eps: {
        label: "Scale of the start ε", min: -8, max: 1, step: 0.01, value: -2, say: (x) => say(10 ** x),
        hint: "All columns of A(0) have this length; one step is 2.3 %.",
      },
      ratio: {
        label: "Decay of the strengths", min: 0.5, max: 1, step: 0.005, value: 0.64,
        say: (x) => `λᵢ₊₁ = ${say(x)} λᵢ`, hint: "Five strengths from λ₁ = 3 downwards, each this multiple of the one before.",
      },
      form: {
        label: "Printed law (dashed)", value: "theorem",
        options: {
          theorem: "theorem 4.2, eq. 4", abstract: "abstract", appendix: "appendix C.3, eq. 19",
          openreview: "other public version",
        },
      },
      one: { label: "one-sided: 0 while the angle is negative", tick: true, value: false },
      log: { label: "logarithmic axis", tick: true, value: false },
    },
    presets: {
      "PEFT’s default start": { eps: -0.24 }, // 1/√3
      "A tiny start": { eps: -8 },
      "Strengths 2.5 % apart": { ratio: 0.975 },
    },
    build,
  });
})();
