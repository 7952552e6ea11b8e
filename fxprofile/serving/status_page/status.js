/**
 * The status page: polls the metrics of this listener and plots them.
 */

/** Milliseconds between two polls; and how long points are kept. */
const PERIOD = 2000;
const KEPT = 600_000;

/** Rates are averaged over this many polls. */
const AVERAGED = 5;

const WIDTH = 400;
const HEIGHT = 120;

const $ = (id) => document.getElementById(id);

/**
 * The plots. A plot without `roles` is shown for every role; `read` returns the value of each line
 * from the current figures and those of some polls before.
 */
const PLOTS = [
  {
    title: "Requests", unit: "per second", roles: ["web", "images"],
    read: (now, before) => rates(now, before, "fxprofile_http_requests_total",
      ({ listener, status }) => `${listener} ${status[0]}xx`),
  },
  {
    title: "Latency", unit: "seconds", roles: ["web", "images"],
    read: (now, before) => percentiles(now, before, "fxprofile_http_request_seconds"),
  },
  {
    title: "Uploads", unit: "per second", roles: ["web"],
    read: (now, before) => rates(now, before, "fxprofile_uploads_total", ({ outcome }) => outcome),
  },
  {
    title: "Crunches, by outcome", unit: "per second", roles: ["worker"],
    read: (now, before) =>
      busy(now, rates(now, before, "fxprofile_crunched_total", ({ outcome }) => outcome)),
  },
  {
    title: "Crunch time", unit: "seconds", roles: ["worker"],
    read: (now, before) => percentiles(now, before, "fxprofile_crunch_seconds"),
  },
  {
    title: "Messages handled", unit: "per second", roles: ["web", "worker"],
    read: (now, before) => rates(now, before, "fxprofile_queue_handled_total",
      ({ queue, outcome }) => (outcome === "done" ? queue : `${queue} not done`)),
  },
  {
    title: "Messages in this process", unit: "messages", roles: ["web", "worker"],
    read: (now) => values(now, "fxprofile_queue_in_hand", ({ queue }) => queue),
  },
  {
    title: "Queue depth", unit: "messages", roles: ["web"], leader: true,
    read: (now) => ({
      ...values(now, "fxprofile_queue_depth", ({ queue, state }) => `${queue} ${state}`),
      ...values(now, "fxprofile_dead_letters", ({ queue }) => `${queue} dead`),
    }),
  },
  {
    title: "Oldest message", unit: "seconds", roles: ["web"], leader: true,
    read: (now) => values(now, "fxprofile_queue_oldest_seconds", ({ queue }) => queue),
  },
  {
    title: "Pending rows, by age", unit: "rows", roles: ["web"], leader: true,
    read: (now) => values(now, "fxprofile_pending_avatars",
      ({ older_than }) => `${older_than} s or more`),
  },
  {
    title: "Memory", unit: "MiB",
    read: (now) => scaled(2 ** -20,
      values(now, "process_resident_memory_bytes", () => "resident, without children")),
  },
  {
    title: "Processor", unit: "% of one core",
    read: (now, before) =>
      scaled(100, rates(now, before, "process_cpu_seconds_total", () => "this process")),
  },
];

/**
 * Parse the text format of Prometheus.
 *
 * @returns {Map<string, {labels: Object<string, string>, value: number}[]>} samples by name
 */
function parse(text) {
  const figures = new Map();
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));
    }
    const samples = figures.get(match[1]) ?? [];
    samples.push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
    figures.set(match[1], samples);
  }
  return figures;
}

/** Return the values of a metric, summed by the line that each sample belongs to. */
function values({ figures }, name, lineOf) {
  const lines = {};
  for (const { labels, value } of figures.get(name) ?? []) {
    const line = lineOf(labels);
    lines[line] = (lines[line] ?? 0) + value;
  }
  return lines;
}

/** Return the increase of each line per second. A counter that fell was reset. */
function rates(now, before, name, lineOf) {
  if (!before) return {};
  const old = values(before, name, lineOf);
  const seconds = (now.time - before.time) / 1000;
  const lines = values(now, name, lineOf);
  for (const [line, value] of Object.entries(lines)) {
    const rose = value - (old[line] ?? 0);
    lines[line] = (rose < 0 ? value : rose) / seconds;
  }
  return lines;
}

/** Return percentiles of a histogram over the last polls; none if nothing was observed. */
function percentiles(now, before, name) {
  const rising = rates(now, before, `${name}_bucket`, ({ le }) => le);
  const buckets = Object.entries(rising)
    .map(([le, rate]) => [Number(le.replace("+Inf", "Infinity")), rate])
    .sort(([a], [b]) => a - b);
  const total = buckets.at(-1)?.[1] ?? 0;
  const lines = {};
  for (const part of [0.5, 0.95, 0.99]) {
    let [floor, below] = [0, 0];
    for (const [ceiling, upTo] of total > 0 ? buckets : []) {
      if (upTo >= part * total) {
        // Within a bucket the observations count as evenly spread.
        const inside = (part * total - below) / (upTo - below || 1);
        lines[`${100 * part} %`] = ceiling === Infinity ? floor : floor + (ceiling - floor) * inside;
        break;
      }
      [floor, below] = [ceiling, upTo];
    }
  }
  return lines;
}

/** Return only the outcomes that have occurred in this process, and the common one. */
function busy(now, lines) {
  const totals = values(now, "fxprofile_crunched_total", ({ outcome }) => outcome);
  return Object.fromEntries(
    Object.entries(lines).filter(([line]) => line === "ready" || totals[line] > 0));
}

function scaled(factor, lines) {
  return Object.fromEntries(Object.entries(lines).map(([line, value]) => [line, factor * value]));
}

/** Return an element with this content. */
function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "polyline", "line", "text"].includes(name);
  const element = isSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function format(value) {
  if (value === 0 || value >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(2)));
}

/** Draw a plot from its points: `{time, lines}`, the oldest first. */
function draw(plot) {
  const latest = plot.points.at(-1)?.lines ?? {};
  const names = [...new Set(plot.points.flatMap(({ lines }) => Object.keys(lines)))]
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if (names.length === 0) {
    const why = plot.leader ? "Only the process that runs the repair loops counts these." : "No data.";
    plot.body.replaceChildren(make("p", { class: "empty" }, why));
    return;
  }
  const end = plot.points.at(-1).time;
  const start = Math.min(plot.points[0].time, end - 60_000);
  const top = Math.max(...plot.points.flatMap(({ lines }) => Object.values(lines)), 0) || 1;
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 16}`, role: "img",
    "aria-label": names.map((name) => `${name}: ${format(latest[name] ?? 0)}`).join(", ") });
  for (const y of [0, HEIGHT / 2, HEIGHT]) {
    svg.append(make("line", { class: "grid", x1: 0, x2: WIDTH, y1: y + 0.5, y2: y + 0.5 }));
  }
  names.forEach((name, index) => {
    const points = plot.points.filter(({ lines }) => name in lines).map(({ time, lines }) => {
      const x = (WIDTH * (time - start)) / (end - start);
      return `${x.toFixed(1)},${(HEIGHT * (1 - lines[name] / top)).toFixed(1)}`;
    });
    svg.append(make("polyline", { class: `line${index % 8}`, points: points.join(" ") }));
  });
  svg.append(make("text", { x: 2, y: 10 }, format(top)));
  const minutes = (end - start) / 60_000;
  svg.append(make("text", { x: 2, y: HEIGHT + 12 }, `${format(minutes)} min ago`));
  svg.append(make("text", { x: WIDTH - 2, y: HEIGHT + 12, "text-anchor": "end" }, "now"));
  const legend = names.map((name, index) => make("li", { class: `line${index % 8}` },
    make("span", {}, `${name} ${name in latest ? format(latest[name]) : "–"}`)));
  plot.body.replaceChildren(svg, make("ul", { class: "legend" }, ...legend));
}

/** Show role, version, checks and sandbox layers. */
function describe(now, status) {
  const build = now.figures.get("fxprofile_build_info")?.[0].labels ?? {};
  const python = now.figures.get("python_info")?.[0].labels ?? {};
  $("role").textContent = build.role ?? "";
  document.title = `fxprofile ${build.role ?? ""} status`;
  $("version").textContent = [`fxprofile ${build.version ?? "?"}`, build.commit?.slice(0, 12),
    `${python.implementation ?? "Python"} ${python.version ?? ""}`].filter(Boolean).join(" · ");
  $("health").dataset.kind = status.status === "ok" ? "good" : "bad";
  $("health").textContent = status.status === "ok" ? "Healthy" : "Not healthy";
  $("checks").tBodies[0].replaceChildren(...status.checks.map(({ name, result, error, at }) =>
    make("tr", {}, make("td", {}, name),
      make("td", { class: ["fail", "low", "stopping"].includes(result) ? "bad" : "good" }, result),
      make("td", {}, error ? `${new Date(1000 * at).toLocaleTimeString()} ${error}` : "–"))));
  const layers = now.figures.get("fxprofile_sandbox_layer") ?? [];
  $("sandbox").hidden = layers.length === 0;
  $("layers").replaceChildren(...layers.map(({ labels, value }) => value
    ? make("li", { class: "good" }, `${labels.layer}: in force`)
    : make("li", { class: "bad" }, `${labels.layer}: unavailable`)));
  return build.role;
}

async function fetched(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

/** The last polls, the oldest first: `{time, figures}`. */
const polls = [];

async function poll() {
  const metrics = await (await fetched("metrics")).text();
  const now = { time: Date.now(), figures: parse(metrics) };
  const role = describe(now, await (await fetched("status.json")).json());
  polls.push(now);
  const before = polls.length > AVERAGED ? polls.shift() : polls.length > 1 ? polls[0] : undefined;
  for (const plot of PLOTS) {
    plot.figure.hidden = plot.roles && role !== "combined" && !plot.roles.includes(role);
    plot.points.push({ time: now.time, lines: plot.read(now, before) });
    while (plot.points[0].time < now.time - KEPT) plot.points.shift();
    draw(plot);
  }
}

async function run() {
  for (const plot of PLOTS) {
    plot.points = [];
    plot.body = make("div");
    plot.figure = make("figure", { "data-title": plot.title },
      make("figcaption", {}, `${plot.title} `, make("small", {}, plot.unit)), plot.body);
    plot.figure.hidden = true;
    $("panels").append(plot.figure);
  }
  for (;;) {
    if (!document.hidden) {
      try {
        await poll();
      } catch (error) {
        $("health").dataset.kind = "bad";
        $("health").textContent = `This process cannot be reached: ${error.message}`;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PERIOD));
  }
}

run();
