// Lines over time with uPlot, which the server takes from an installed package.
import { h } from "./dom.js";
import { day, inUnit, time } from "./format.js";

const drawn = new Set();

export function forget() {
  for (const chart of drawn) chart.destroy();
  drawn.clear();
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Vertical lines at marks; `marks` are {time (ms), kind}.
function marker(marks) {
  return {
    hooks: {
      draw: [(chart) => {
        const { ctx, bbox } = chart;
        ctx.save();
        ctx.lineWidth = devicePixelRatio;
        for (const mark of marks) {
          const x = chart.valToPos(mark.time / 1000, "x", true);
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          ctx.strokeStyle = color(mark.kind === "deploy" || mark.kind === "start" ? "--good" : "--bad");
          ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
        }
        ctx.restore();
      }],
    },
  };
}

// Times as everywhere on the page, with the day where one begins.
function times(_, splits, axis, space, every) {
  return splits.map((at, number) => {
    const date = day(at * 1e9);
    if (every >= 86400) return date;
    const clock = time(at * 1e9, false).slice(0, every >= 60 ? 5 : 8);
    return number && day(splits[number - 1] * 1e9) === date ? clock : `${clock}\n${date}`;
  });
}

// Whether the readings of a line are so near to each other that nothing would be seen of it.
function isDot(line, steps) {
  const said = line.points.filter(([, value]) => value !== null);
  return said.length > 0 && said[said.length - 1][0] - said[0][0] <= (steps[steps.length - 1] - steps[0]) / 50;
}

// One panel of the server's, in `box`. Dragging over it chooses a range.
export function draw(box, panel, begin, step, marks, choose) {
  if (typeof window.uPlot !== "function") {
    box.append(h("p", { class: "empty" }, "Charts need uPlot: pip install 'otel-perf[view]'"));
    return;
  }
  const steps = [...new Set(panel.lines.flatMap((line) => line.points.map(([at]) => at)))].sort((a, b) => a - b);
  const data = [steps.map((at) => (begin + at * step) / 1000)];
  for (const line of panel.lines) {
    const values = new Map(line.points);
    data.push(steps.map((at) => (values.has(at) ? values.get(at) : null)));
  }
  const format = inUnit(panel.unit);
  const text = color("--quiet");
  const grid = { stroke: color("--line"), width: 1 };
  const axis = { stroke: text, font: "11px system-ui, sans-serif", grid, ticks: grid };
  const options = {
    width: Math.max(260, box.clientWidth), height: 190,
    cursor: { drag: { x: true, y: false }, sync: { key: "otel-perf" }, points: { size: 6 } },
    legend: { live: true },
    series: [{ label: "time", value: (_, value) => (value === null ? "" : time(value * 1e9, false)) },
      ...panel.lines.map((line, at) => ({
        label: line.label, stroke: color(`--series-${(at % 8) + 1}`), width: 1.6, value: (_, value) => format(value),
        spanGaps: true, points: { show: steps.length < 3 || isDot(line, steps) },
      }))],
    axes: [{ ...axis, space: 70, values: times }, { ...axis, size: 64, values: (_, values) => values.map(format) }],
    // One reading has no range of its own: uPlot gives it a thousand days where times are seconds.
    scales: {
      x: { range: (_, low, high) => (steps.length === 1 ? [data[0][0] - 30, data[0][0] + 30] : [low, high]) },
      y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1] },
    },
    plugins: [marker(marks)],
    hooks: {
      setSelect: [(chart) => {
        if (chart.select.width < 6) return;
        const from = chart.posToVal(chart.select.left, "x") * 1000;
        const to = chart.posToVal(chart.select.left + chart.select.width, "x") * 1000;
        choose(`${Math.floor(from)}-${Math.ceil(to)}`);
      }],
    },
  };
  drawn.add(new window.uPlot(options, data, box));
}

// Bars of how many there were over time, without a library: [[second, number, of which bad]…].
export function bars(slots, width, label, choose) {
  if (slots.length < 2) return null;
  const first = slots[0][0];
  const last = slots[slots.length - 1][0];
  const all = Math.round((last - first) / width) + 1;
  const per = Math.max(1, Math.ceil(all / 120));
  const columns = Array.from({ length: Math.ceil(all / per) }, () => [0, 0]);
  for (const [at, number, bad] of slots) {
    const column = columns[Math.floor((at - first) / width / per)];
    column[0] += number;
    column[1] += bad;
  }
  const most = Math.max(...columns.map(([number]) => number), 1);
  return h("div", { class: "bars", role: "img", "aria-label": label },
    columns.map(([number, bad], at) => {
      const begin = (first + at * per * width) * 1000;
      return h("span", {
        class: "column", title: `${new Date(begin).toLocaleString()}: ${number}, ${bad} failed`,
        onclick: () => choose(`${begin}-${begin + per * width * 1000}`),
      }, h("i", { style: { height: `${(number - bad) / most * 100}%` } }), h("i", { class: "bad", style: { height: `${bad / most * 100}%` } }));
    }));
}
