/* The figure of the chapter on Marchenko and Pastur: shape and planted signal move, spectrum and overlaps follow. */
(() => {
  "use strict";
  const POINTS = 400;
  const STRONGEST = 3; // planted values end here, in thresholds
  const { say, colour } = movable;

  /* Everything the figure shows at one position. */
  function position({ shape, strength }) {
    const c = 2 ** shape;
    const [low, high] = spikedLaw.support(c);
    const threshold = spikedLaw.threshold(c);
    const planted = strength * threshold;
    const middle = (low + high) / 2; // evenly in the angle: many points where the curve is steep
    const values = Array.from({ length: POINTS + 1 }, (_, i) => middle - ((high - low) / 2) * Math.cos((Math.PI * i) / POINTS));
    return {
      c, low, high, threshold, planted, strength, values,
      atom: spikedLaw.atom(c),
      density: values.map((s) => spikedLaw.singularDensity(s, c)),
      observed: spikedLaw.observed(planted, c),
      overlaps: spikedLaw.overlaps(planted, c),
      end: 1.05 * spikedLaw.observed(STRONGEST * threshold, c),
    };
  }

  /* What one sees, in words. */
  function sentence({ c, low, high, atom, planted, strength, observed, overlaps }) {
    const seen = strength > 1;
    return `With p/n = ${say(c)} the noise fills singular values from ${say(low)} to ${say(high)}`
      + (atom > 0 ? `, and ${say(100 * atom)} % of the p values are exactly zero. ` : ". ")
      + `A planted value of ${say(planted)} is ${say(strength)} thresholds: `
      + (seen
        ? `the top singular value leaves the noise and stands at ${say(observed)}, ${say(100 * (observed / planted - 1), 2)} % `
          + `too large. Squared cosines with the planted vectors: ${say(overlaps[0])} on the side of length p, `
          + `${say(overlaps[1])} on the side of length n.`
        : `nothing is seen. The top singular value is the edge of the noise, ${say(observed)}, whatever is planted, and `
          + "its vectors say nothing about the planted ones.");
  }

  function build(stage) {
    const table = movable.table("Singular values of Y (σ√n) and eigenvalues of YYᵀ/n (σ²)",
      ["", "Singular value", "Eigenvalue"]);
    const spectrumKey = movable.make("div", { class: "movable-key" }, ...movable.key(
      ["band", "noise"], ["upright dotted", "threshold"], ["upright dashed", "planted"], ["upright full", "observed"]));
    const overlapKey = movable.make("div", { class: "movable-key" });
    let now = null;

    const lines = movable.onTop((ctx, x, y, pixel, box) => {
      const upright = (value, name, dash, width) => {
        ctx.strokeStyle = colour(name)();
        ctx.lineWidth = width * pixel;
        ctx.setLineDash(dash.map((length) => length * pixel));
        ctx.beginPath();
        ctx.moveTo(x(value), box.top + box.height);
        ctx.lineTo(x(value), box.top);
        ctx.stroke();
      };
      upright(now.threshold, "--movable-text", [1, 4], 1.5);
      upright(now.planted, "--movable-planted", [6, 4], 2);
      upright(now.observed, "--movable-observed", [], 2.5);
      if (now.atom > 0) { // mass, not density: a dot on a stem
        ctx.setLineDash([]);
        ctx.strokeStyle = ctx.fillStyle = colour("--movable-noise")();
        ctx.beginPath();
        ctx.moveTo(x(0), y(0));
        ctx.lineTo(x(0), y(now.atom));
        ctx.stroke();
        ctx.beginPath();
        ctx.arc(x(0), y(now.atom), 5 * pixel, 0, 2 * Math.PI);
        ctx.fill();
      }
    });
    const spectrum = movable.plot("Density of the singular values with the planted and the observed value", 300, {
      scales: {
        x: { time: false, range: () => [-0.02 * (now?.end ?? 1), now?.end ?? 1] },
        y: { range: () => [0, 1.12 * Math.max(...(now?.density ?? [1]), now?.atom ?? 0)] },
      },
      axes: [{ label: "singular value (σ√n)", size: 28 }, { label: "density", size: 44 }],
      series: [{ stroke: colour("--movable-noise"), fill: colour("--movable-noise-pale"), width: 2.2 }],
      hooks: { draw: [(u) => { if (now) lines(u); }] },
    });

    const dots = movable.onTop((ctx, x, y, pixel) => {
      now.overlaps.forEach((overlap, i) => {
        ctx.fillStyle = colour(["--movable-left", "--movable-right"][i])();
        ctx.beginPath();
        ctx.arc(x(now.strength), y(overlap), 5.5 * pixel, 0, 2 * Math.PI);
        ctx.fill();
      });
    });
    const overlap = movable.plot("Squared cosines between planted and observed vectors against the planted value", 300, {
      scales: { x: { time: false, range: () => [0, STRONGEST] }, y: { range: () => [-0.03, 1.03] } },
      axes: [{ label: "planted / threshold", size: 28 }, { label: "squared cosine", size: 44 }],
      series: [
        { stroke: colour("--movable-left"), width: 2.2 }, { stroke: colour("--movable-right"), width: 2.2, dash: [6, 4] },
      ],
      hooks: { draw: [(u) => { if (now) dots(u); }] },
    });
    stage.classList.add("movable-pair");
    for (const [made, key] of [[spectrum, spectrumKey], [overlap, overlapKey]]) {
      stage.append(movable.make("div", {}, made.place, key));
    }

    return {
      numbers: table.element,
      redraw: () => [spectrum, overlap].forEach(({ plot }) => plot.redraw(false)),
      update: (values) => {
        now = position(values);
        const grid = Array.from({ length: POINTS + 1 }, (_, i) => (STRONGEST * i) / POINTS);
        const curves = grid.map((strength) => spikedLaw.overlaps(strength * now.threshold, now.c));
        spectrum.plot.setData([now.values, now.density]);
        overlap.plot.setData([grid, curves.map(([left]) => left), curves.map(([, right]) => right)]);
        const row = (text, s) => ({ text, cells: [say(s), say(s ** 2)] });
        table.write([
          row("noise, from", now.low), row("noise, to", now.high), row("threshold", now.threshold),
          row("planted", now.planted), row("observed", now.observed),
        ]);
        overlapKey.replaceChildren(...movable.key(["line left", `left, length p: ${say(now.overlaps[0])}`],
          ["dashed right", `right, length n: ${say(now.overlaps[1])}`]));
        return sentence(now);
      },
    };
  }

  movable.figure("spectrum", {
    title: "Figure to move: from the shape and a planted signal to the spectrum",
    settings: {
      shape: {
        label: "Aspect ratio c = p/n", min: -5.5, max: 2.5, step: 0.05, value: -2, say: (x) => say(2 ** x),
        hint: "Rows over columns; above 1 some singular values are exactly zero.",
      },
      strength: {
        label: "Planted singular value s", min: 0, max: STRONGEST, step: 0.01, value: 1.5, say: (x) => `${say(x)} s*`,
        hint: "In thresholds s* = σ(pn)^¼, the value at which a signal begins to show.",
      },
    },
    presets: {
      "Just below the threshold": { strength: 0.99 },
      "Square": { shape: 0 },
      "Four times as tall as wide": { shape: 2 },
    },
    build,
  });
})();
