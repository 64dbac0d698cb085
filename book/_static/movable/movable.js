/* A figure that the reader moves: a plot, native controls beside it, and a sentence that says what it shows.

   A chapter has `<div class="movable" data-figure="NAME">…</div>`, whose words stand where there is no script: in a
   notebook, on paper, without JavaScript. `movable.figure(NAME, …)` adds the figure on a screen. Nothing moves by
   itself, and nothing is asked from anywhere. */
const movable = (() => {
  "use strict";

  const PAUSE = 250; // milliseconds without a change before the sentence is said, so that a dragged slider is quiet

  /* An element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /* A number for reading: three digits, powers of ten where there would be many zeros, a real minus sign. */
  function say(x, digits = 3) {
    if (x === 0) return "0";
    const power = Math.floor(Math.log10(Math.abs(x)) + 1e-9);
    const sign = x < 0 ? "−" : "";
    if (power >= -3 && power < 5) {
      return sign + Number(Math.abs(x).toPrecision(digits)).toFixed(Math.max(0, Math.min(digits - 1 - power, 6)))
        .replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
    }
    const raised = [...String(power)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("");
    const front = Number((Math.abs(x) / 10 ** power).toPrecision(digits));
    return `${sign}${front === 1 ? "" : `${front} × `}10${raised}`;
  }

  /* A slider: what it is called, what it stands at with its unit, and what it does. */
  function slider(id, setting, changed) {
    const hint = make("span", { class: "movable-hint", id: `${id}-hint` }, setting.hint);
    const input = make("input", {
      type: "range", id, min: setting.min, max: setting.max, step: setting.step, "aria-describedby": hint.id,
    });
    const shown = make("output", { for: id, "aria-live": "off" }); // a screen reader has it from the slider itself
    input.addEventListener("input", changed);
    return {
      element: make("div", { class: "movable-control" }, make("label", { for: id }, setting.label), shown, input, hint),
      get: () => Number(input.value),
      set: (value) => { input.value = value; },
      refresh: () => {
        shown.value = setting.say(Number(input.value));
        input.setAttribute("aria-valuetext", shown.value);
      },
    };
  }

  /* A choice among names. */
  function choice(id, setting, changed) {
    const select = make("select", { id });
    for (const [value, text] of Object.entries(setting.options)) select.append(make("option", { value }, text));
    select.addEventListener("change", changed);
    return {
      element: make("div", { class: "movable-control" }, make("label", { for: id }, setting.label), select),
      get: () => select.value,
      set: (value) => { select.value = value; },
      refresh: () => {},
    };
  }

  /* A box to tick. */
  function tick(id, setting, changed) {
    const input = make("input", { type: "checkbox", id });
    input.addEventListener("change", changed);
    return {
      element: make("div", { class: "movable-control movable-tick" }, input, make("label", { for: id }, setting.label)),
      get: () => input.checked,
      set: (value) => { input.checked = value; },
      refresh: () => {},
    };
  }

  /* A table whose rows are written anew at every move; a first cell may have a mark, drawn in CSS. */
  function table(caption, head) {
    const body = make("tbody");
    const titles = head.map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
    const element = make("table", { class: "movable-table" }, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...titles)), body);
    const row = ({ mark, text, cells }) => make("tr", {},
      make("th", { scope: "row" }, ...(mark ? [make("span", { class: `movable-mark ${mark}`, "aria-hidden": "true" })] : []),
        text), ...cells.map((cell) => make("td", {}, cell)));
    return { element, write: (rows) => body.replaceChildren(...rows.map(row)) };
  }

  /* Colours and the font are those of the page, in the scheme that the reader has chosen. */
  const colour = (name) => () => getComputedStyle(document.querySelector(".movable-panel")).getPropertyValue(name).trim();
  const font = () => `12px ${getComputedStyle(document.body).fontFamily}`;

  /* A plot that fills its place and follows its width; `options` are those of uPlot. */
  function plot(label, height, options) { // `label` is what a screen reader says, before the sentence of the figure
    const place = make("div", { class: "movable-plot", role: "img", "aria-label": label });
    const axis = (given) => ({
      font: font(), labelFont: font(), labelSize: 18, stroke: colour("--movable-text"),
      grid: { stroke: colour("--movable-grid"), width: 1 }, ticks: { stroke: colour("--movable-grid"), width: 1, size: 5 },
      values: (_, splits) => splits.map((value) => (value === null ? "" : say(value))), ...given,
    });
    const size = () => ({ width: Math.max(place.clientWidth, 120), height: place.clientWidth < 420 ? 0.8 * height : height });
    const made = new uPlot({
      ...size(), pxAlign: 0, padding: [10, 12, 0, 0], ...options,
      axes: options.axes.map(axis),
      series: [{}, ...options.series.map((series) => ({ points: { show: false }, ...series }))],
      cursor: { show: false }, legend: { show: false },
    }, [[0, 1], ...options.series.map(() => [0, 1])], place);
    new ResizeObserver(() => { if (place.clientWidth) made.setSize(size()); }).observe(place);
    return { place, plot: made };
  }

  /* Draw on a plot in the units of its axes, clipped to it; for marks that are no series. */
  function onTop(draw) {
    return (u) => {
      const { ctx, bbox } = u;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      draw(ctx, (x) => u.valToPos(x, "x", true), (y) => u.valToPos(y, "y", true), window.devicePixelRatio, bbox);
      ctx.restore();
    };
  }

  /* Put a figure into its place on the page, if there is one.

     `title` names it; `settings` are its controls by name: {label, hint, min, max, step, value, say} for a slider,
     {label, options, value} for a choice, {label, tick, value} for a box; `presets` are positions by name. `build(stage)`
     makes the plots and returns `update(values)`, which draws a position and says in a sentence what one sees,
     `redraw()` for another colour scheme, and `numbers`, a table. */
  function figure(name, { title, settings, presets, build }) {
    const place = document.querySelector(`.movable[data-figure="${name}"]`);
    if (!place || typeof uPlot === "undefined") return;
    const panel = make("div", { class: "movable-panel", role: "group", "aria-label": title });
    const summary = make("div", { class: "movable-summary", id: `movable-${name}-summary`, "aria-live": "polite" });
    const stage = make("div", { class: "movable-stage" });
    const controls = {};
    let later = 0;

    const values = () => Object.fromEntries(Object.entries(controls).map(([key, control]) => [key, control.get()]));
    let draw = () => "";
    const move = () => {
      for (const control of Object.values(controls)) control.refresh();
      const sentence = draw(values());
      clearTimeout(later);
      later = setTimeout(() => { if (summary.textContent !== sentence) summary.textContent = sentence; }, PAUSE);
    };
    const go = (position) => {
      for (const [key, value] of Object.entries(position)) controls[key].set(value);
      move();
    };

    for (const [key, setting] of Object.entries(settings)) {
      const kind = setting.options ? choice : setting.tick ? tick : slider;
      controls[key] = kind(`movable-${name}-${key}`, setting, move);
    }
    const start = Object.fromEntries(Object.entries(settings).map(([key, setting]) => [key, setting.value]));
    const button = (text, position) => {
      const pressed = make("button", { type: "button" }, text);
      pressed.addEventListener("click", () => go(position));
      return pressed;
    };
    const buttons = make("div", { class: "movable-buttons", role: "group", "aria-label": "Positions" },
      ...Object.entries(presets).map(([text, position]) => button(text, position)), button("Reset", start));

    const words = make("div", { class: "movable-words" }, summary);
    const elements = Object.values(controls).map((control) => control.element);
    const ticks = elements.filter((element) => element.matches(".movable-tick"));
    panel.append(make("div", { class: "movable-title" }, title), stage,
      make("div", { class: "movable-controls" }, ...elements.filter((element) => !ticks.includes(element)),
        ...(ticks.length ? [make("div", {}, ...ticks)] : [])), buttons, words);
    place.append(panel);
    place.classList.add("movable-made"); // on a screen, the words of the chapter give way
    const { update, redraw, numbers } = build(stage);
    words.append(numbers);
    for (const picture of stage.querySelectorAll("[role=img]")) picture.setAttribute("aria-describedby", summary.id);
    draw = update;
    go(start);
    summary.textContent = draw(values());
    new MutationObserver(redraw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  }

  /* A key below a plot: pairs of a mark and its words. */
  function key(...entries) {
    return entries.map(([mark, text]) => make("span", {}, make("span", { class: `movable-mark ${mark}`, "aria-hidden": "true" }), text));
  }

  return { figure, plot, table, key, onTop, colour, font, say, make };
})();
