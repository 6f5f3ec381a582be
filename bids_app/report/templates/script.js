"use strict";
(() => {
  const root = document.documentElement;
  const remember = (value) => { try { localStorage.setItem("theme", value); } catch { /* a private window keeps nothing */ } };
  const recall = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  if (recall()) root.dataset.theme = recall();

  const theme = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  name();
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); name(); });

  for (const figure of document.querySelectorAll("[data-cursor]")) {
    const { span, tr, values } = JSON.parse(figure.dataset.cursor);
    const plot = figure.querySelector(".plot");
    const line = figure.querySelector(".cursor");
    const readout = figure.querySelector(".readout");
    const n = values[0][1].length;
    plot.addEventListener("pointermove", (event) => {
      const box = plot.querySelector("svg").getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width - span[0]) / (span[1] - span[0]);
      const t = Math.floor(share * n);
      const inside = share >= 0 && t < n;
      line.style.display = inside ? "block" : "none";
      if (!inside) return;
      line.style.left = `${event.clientX - plot.getBoundingClientRect().left}px`;
      line.style.height = `${box.height}px`;
      const parts = values.map(([key, row]) => `${key} ${row[t] === null ? "n/a" : row[t]}`);
      readout.textContent = `volume ${t + 1} of ${n}, ${(t * tr).toFixed(1)} s: ${parts.join(", ")}`;
    });
    plot.addEventListener("pointerleave", () => { line.style.display = "none"; });
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected: press Ctrl+C";
      }
    });
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const body = table.tBodies[0];
    const value = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
    const compare = (a, b, sign) => {
      if (!a !== !b) return a ? -1 : 1; // what is not known comes last, whichever way
      const [x, y] = [Number(a.replace("%", "")), Number(b.replace("%", ""))];
      return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y);
    };
    for (const button of table.querySelectorAll("th button")) {
      const head = button.closest("th");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const i = head.cellIndex;
        body.append(...[...body.rows].sort((a, b) => compare(value(a, i), value(b, i), down ? -1 : 1)));
      });
    }
  }

  for (const box of document.querySelectorAll("input[data-filter]")) {
    const rows = document.getElementById(box.dataset.filter).tBodies[0].rows;
    const count = document.getElementById(`${box.dataset.filter}-count`);
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = `${shown} of ${rows.length} runs`;
    });
  }

  for (const select of document.querySelectorAll("select[data-colours]")) {
    const show = () => {
      for (const dot of document.querySelectorAll(`[data-map="${select.dataset.colours}"] circle`)) dot.style.fill = dot.dataset[select.value] ?? "";
      for (const legend of document.querySelectorAll(`[data-legend-of="${select.dataset.colours}"]`)) legend.hidden = legend.dataset.key !== select.value;
    };
    select.addEventListener("change", show);
    show();
  }

  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const part of document.querySelectorAll("details:not(.raw)")) part.open = true;
  });
  addEventListener("afterprint", () => { if (before) root.dataset.theme = before; else delete root.dataset.theme; });
})();
