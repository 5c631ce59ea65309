"use strict";
// Draws each picture from the table under it, so that both always say the same. Without scripts
// the tables are all there is.
const COLOURS = ["#1d4f91", "#b3440b", "#0b7a5b", "#8a3b8f", "#5b6472"];
const SHADES = { may: "#0b7a5b", said_no: "#b3440b", never_agreed: "#5b6472", other: "#8a3b8f" };

const PERCENT = new Intl.NumberFormat(document.documentElement.lang, { style: "percent" });
const LINE = 22;

// A long label in lines of its own words.
const folded = (text) => {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const last = lines[lines.length - 1];
    if (last && last.length + word.length >= LINE) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} ${word}` : word;
  }
  return lines.length > 1 ? lines : text;
};

const read = (table) => {
  const names = [...table.tHead.rows[0].cells].slice(1).filter((cell) => "series" in cell.dataset);
  const rows = [...table.tBodies[0].rows];
  return {
    labels: rows.map((row) => folded(row.cells[0].textContent.trim())),
    datasets: names.map((name, at) => ({
      label: name.textContent.trim(),
      data: rows.map((row) => {
        const value = row.cells[name.cellIndex].dataset.value;
        return value === "" ? null : Number(value);
      }),
      backgroundColor: SHADES[name.dataset.series] || COLOURS[at % COLOURS.length],
      borderColor: "#fff",
      borderWidth: 1,
      said: rows.map((row) => row.cells[name.cellIndex].textContent.trim()),
    })),
  };
};

const KINDS = {
  weeks: { scales: { x: { stacked: true, grid: { display: false } }, y: { stacked: true, beginAtZero: true, ticks: { precision: 0 } } } },
  doors: { indexAxis: "y", scales: { x: { stacked: true, beginAtZero: true, ticks: { precision: 0 } }, y: { stacked: true, grid: { display: false } } } },
  lags: { indexAxis: "y", scales: { x: { type: "logarithmic", ticks: { display: false }, grid: { display: false } }, y: { grid: { display: false } } } },
  shares: { indexAxis: "y", scales: { x: { stacked: true, max: 1, ticks: { stepSize: 0.25, callback: (part) => PERCENT.format(part) } }, y: { stacked: true, grid: { display: false } } } },
};

Chart.defaults.animation = false;
Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
Chart.defaults.font.size = 14;
Chart.defaults.color = "#1f2430";
Chart.defaults.locale = document.documentElement.lang;

for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
  const table = document.getElementById(canvas.dataset.table);
  const data = read(table);
  const holder = canvas.parentElement;
  holder.hidden = false;
  if (KINDS[canvas.dataset.chart].indexAxis) holder.classList.add(data.labels.length > 6 ? "tall" : "low");
  new Chart(canvas, {
    type: "bar",
    data,
    options: {
      ...KINDS[canvas.dataset.chart],
      maintainAspectRatio: false,
      plugins: {
        legend: { position: "bottom", labels: { boxWidth: 14, boxHeight: 14 } },
        tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${item.dataset.said[item.dataIndex]}` } },
      },
    },
  });
}
