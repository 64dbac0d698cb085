// Filters above the ledger of claims: by words, draft, chapter and verdict. Without this script the whole table shows.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.claims")) {
    const rows = [...table.tBodies[0].rows].filter((row) => row.cells.length === 4);
    if (rows.length < 20) continue; // the short table of a chapter

    const of = (row) => ({
      draft: row.id.split("-")[0].toUpperCase(),
      chapter: row.cells[0].querySelector("p:nth-of-type(2) a, p:nth-of-type(2) em")?.textContent ?? "",
      verdict: row.querySelector(".verdict").textContent,
      words: row.textContent.toLowerCase(),
    });
    const facts = new Map(rows.map((row) => [row, of(row)]));
    const form = document.createElement("form");
    form.className = "claims-filter";
    form.addEventListener("submit", (event) => event.preventDefault());
    const count = document.createElement("output");

    const field = (name, control) => {
      const label = document.createElement("label");
      control.name = name;
      control.addEventListener("input", show);
      label.append(name[0].toUpperCase() + name.slice(1), control);
      form.append(label);
      return control;
    };
    const choice = (name) => {
      const select = document.createElement("select");
      select.append(new Option("all", ""));
      for (const value of new Set(rows.map((row) => facts.get(row)[name]))) select.append(new Option(value, value));
      return field(name, select);
    };
    const search = field("words", Object.assign(document.createElement("input"), { type: "search" }));
    const choices = ["draft", "verdict", "chapter"].map(choice);

    function show() {
      const wanted = search.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of rows) {
        const fact = facts.get(row);
        const fits = wanted.every((word) => fact.words.includes(word));
        row.hidden = !(fits && choices.every((select) => !select.value || fact[select.name] === select.value));
        shown += !row.hidden;
      }
      count.value = `${shown} of ${rows.length} claims`;
    }
    form.append(count);
    table.before(form);
    show();
  }
});
