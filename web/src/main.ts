/** The page: what is open, what was drawn and found, and what the visitor does. */

import { scoreColor } from "./draw";
import { Problem, sentence } from "./errors";
import { type Box, checkBox } from "./geometry";
import { type Event_, Remote } from "./messages";
import { label, save, toCsv, toJson } from "./outputs";
import { Stage } from "./stage";
import { countDoubtful, nextDoubtful, Target } from "./targets";
import { Timeline } from "./timeline";
import type { ClipInfo } from "./video";

const MODELS = new URL("models/", document.baseURI).href;
const SAMPLE = new URL("sample.mp4", document.baseURI).href;

const find = <Kind extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as Kind;
const button = (id: string) => find<HTMLButtonElement>(id);

type Busy = "opening" | "tracking" | "writing" | "live" | null;

let info: ClipInfo | null = null;
let frame = 0;
let targets: Target[] = [];
let selected: Target | null = null;
let ids = 0;
let busy: Busy = null;
let ready: Promise<unknown> = Promise.resolve();
/** Whether tracking was stopped while it waited for the model. */
let cancelled = false;
/** What the worker is busy with. */
let working: Promise<unknown> = Promise.resolve();
/** Frames a frame's time: 0 is pause, negative backwards. */
let speed = 0;
/** Seconds after the start of the webcam, one for each frame. */
let liveTimes: number[] = [];

const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
worker.onerror = ({ message }) => complain(new Problem(`The page broke (${message || "its worker did not start"}); reload it.`));
const remote = new Remote(worker, onEvent);
const stage = new Stage(find("stage"), () => canDraw(), (box) => drawBox(box));
const timeline = new Timeline(find<HTMLCanvasElement>("timeline"), (at) => {
  halt();
  void go(at);
});
const camera = find<HTMLVideoElement>("camera");

// ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────

/** What goes on, and how much of it is done. */
function say(text: string, share: number | null = null): void {
  tell("message", "progress", text, share);
}

/** The same of the model. */
function sayModel(text: string, share: number | null = null): void {
  tell("model-state", "model-progress", text, share);
}

function tell(where: string, bar: string, text: string, share: number | null): void {
  find(where).textContent = text;
  const progress = find<HTMLProgressElement>(bar);
  progress.hidden = share === null;
  if (share !== null) progress.value = share;
}

function complain(error: unknown): void {
  const box = find("error");
  box.querySelector("span")!.textContent = sentence(error);
  box.hidden = false;
  if (!(error instanceof Error && error.name === "Problem")) console.error(error);
}

/** Run what a visitor asked for, and tell what goes wrong. */
function attempt(action: () => Promise<void>): void {
  find("error").hidden = true;
  action().catch(complain).finally(render);
}

function onEvent(event: Event_): void {
  if (event.kind === "download") {
    const [loaded, total] = [event.loaded, event.total].map((bytes) => (bytes / 1e6).toFixed(1));
    sayModel(`Loading the model: ${loaded} of ${total} MB`, event.loaded / event.total);
  } else if (event.kind === "written") {
    say(`Writing frame ${event.frame + 1} of ${count()}`, event.frame / count());
  } else {
    for (const found of event.found) targets.find(({ id }) => id === found.target)?.add(event.frame, found);
    frame = event.frame;
    if (event.preview) {
      stage.show(event.preview, frame);
      event.preview.close();
      say(`Tracking frame ${frame + 1} of ${count()}. Esc stops.`, (frame + 1) / count());
      render();
    }
  }
}

// ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────

function loadModel(): void {
  const name = find<HTMLSelectElement>("model").value;
  const loading = remote.call("load", [MODELS, name]);
  ready = loading;
  loading.then(
    ({ threads }) => {
      if (ready === loading) sayModel(`${name} is ready (${threads} ${threads === 1 ? "thread" : "threads"})`);
    },
    (error) => {
      if (ready !== loading) return;
      sayModel("No model");
      complain(error);
    },
  );
}

// ── clips ─────────────────────────────────────────────────────────────────────────────────────────────────────────

async function openClip(file: Blob, name: string): Promise<void> {
  await endWork();
  busy = "opening";
  say(`Opening ${name}…`);
  try {
    info = await remote.call("open", [file, name]);
  } finally {
    busy = null;
    say("");
  }
  forget();
  showWork(info.width, info.height, info.pixelAspect);
  await go(0);
  const { width, height, times, codec, exact } = info;
  say(`${name}: ${times.length} frames, ${width}×${height}, ${codec}${exact ? "" : ", colors converted by the browser"}.`);
}

/** Stop whatever goes on, before something else is opened. */
async function endWork(): Promise<void> {
  halt();
  await endLive();
  if (busy) stop();
  await working.catch(() => {});
}

async function openSample(): Promise<void> {
  const response = await fetch(SAMPLE).catch(() => null);
  if (!response?.ok) throw new Problem("The sample cannot be loaded; check the connection.");
  await openClip(await response.blob(), "sample.mp4");
}

function forget(): void {
  targets = [];
  selected = null;
  ids = 0;
  frame = 0;
}

function showWork(width: number, height: number, [across, up]: readonly [number, number] = [1, 1]): void {
  find("welcome").hidden = true;
  find("work").hidden = false;
  button("open").hidden = false;
  stage.resize(width, height, across / up);
  render();
}

function count(): number {
  return info ? info.times.length : Math.max(liveTimes.length, 1);
}

// ── frames ────────────────────────────────────────────────────────────────────────────────────────────────────────

let wanted = 0;
let fetching = false;

/** Show a frame; where several are asked for while one is fetched, the last of them. */
async function go(at: number): Promise<void> {
  if (!info || busy) return;
  wanted = frame = Math.min(Math.max(at, 0), count() - 1);
  render();
  if (fetching) return;
  fetching = true;
  try {
    for (let shown = -1; shown !== wanted; ) {
      shown = wanted;
      const picture = await remote.call("picture", [shown]);
      if (picture && info) stage.show(picture, shown);
      picture?.close();
      render();
    }
  } finally {
    fetching = false;
  }
}

function play(rate: number): void {
  if (!info || busy) return;
  const running = speed !== 0;
  speed = rate;
  if (rate > 0 && frame === count() - 1) void go(0);
  render();
  if (running || !rate) return;
  let before = performance.now();
  const tick = async (now: number) => {
    if (!speed || !info || busy) return halt();
    const { times } = info;
    const per = times.length > 1 ? times[times.length - 1] / (times.length - 1) : 0.04;
    const due = Math.floor(((now - before) / 1000 / per) * Math.abs(speed));
    if (due >= 1) {
      before = now;
      const next = frame + Math.sign(speed) * Math.min(due, 4);
      if (next < 0 || next >= count()) return halt();
      await go(next);
    }
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

function halt(): void {
  speed = 0;
  render();
}

// ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────

function canDraw(): boolean {
  halt();
  return busy === "live" || (busy === null && stage.frame === frame);
}

function newTarget(): Target {
  const target = new Target(++ids);
  targets.push(target);
  selected = target;
  return target;
}

/** A box drawn on this frame: of a new target, or a correction of the selected one. */
function drawBox(box: Box): void {
  const [width, height] = info ? [info.width, info.height] : [camera.videoWidth, camera.videoHeight];
  const wrong = checkBox(box, width, height);
  if (wrong) return complain(new Problem(wrong));
  find("error").hidden = true;
  const target = selected ?? newTarget();
  if (busy === "live") {
    attempt(() => startLive(target, box));
  } else {
    target.draw(frame, box);
    say("Press Track, or Enter.");
  }
  render();
}

async function trackAll(): Promise<void> {
  const orders = targets.map((target) => target.order()).filter((order) => order !== null);
  const due = orders.filter(({ from }) => from < count());
  if (busy || !info || !due.length) return;
  halt();
  busy = "tracking";
  cancelled = false;
  say("Waiting for the model…");
  render();
  try {
    await ready;
    if (cancelled) return say("Stopped.");
    const tracking = remote.call("track", [due, count() - 1]);
    working = tracking;
    const { frames, seconds, stopped } = await tracking;
    const rate = (frames / seconds).toFixed(1);
    say(`${stopped ? "Stopped after" : "Tracked"} ${frames} frames, ${rate} a second.`);
  } finally {
    busy = null;
  }
  await go(frame);
}

function remove(target: Target): void {
  targets = targets.filter((other) => other !== target);
  if (selected === target) selected = targets[targets.length - 1] ?? null;
  render();
}

// ── webcam ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function openWebcam(): Promise<void> {
  let stream: MediaStream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch {
    throw new Problem("The webcam cannot be opened; plug it in, and allow this page to use it.");
  }
  await endWork();
  camera.srcObject = stream;
  await camera.play();
  forget();
  info = null;
  liveTimes = [];
  busy = "live";
  showWork(camera.videoWidth, camera.videoHeight);
  say("Drag a box around an object. Esc closes the webcam.");
  let began: number | null = null;
  let stepping = false;
  const onFrame = async (now: number) => {
    if (busy !== "live" || camera.srcObject !== stream) return;
    camera.requestVideoFrameCallback(onFrame);
    if (stepping) return; // the network is slower than the webcam: this frame is passed over
    stepping = true;
    const following = targets.some(({ next }) => next !== null);
    const picture = following ? await createImageBitmap(camera) : null;
    stage.show(picture ?? camera, liveTimes.length);
    if (picture) {
      const found = await remote.call("liveStep", [picture], [picture]).catch((error) => {
        complain(error);
        return [];
      });
      if (found.length) {
        began ??= now;
        frame = liveTimes.length;
        liveTimes.push((now - began) / 1000);
        for (const track of found) targets.find(({ id }) => id === track.target)?.add(frame, track);
      }
      render();
    }
    stepping = false;
  };
  camera.requestVideoFrameCallback(onFrame);
}

async function startLive(target: Target, box: Box): Promise<void> {
  await ready;
  const picture = await createImageBitmap(stage.picture);
  const found = await remote.call("liveStart", [picture, target.id, box], [picture]);
  frame = Math.max(liveTimes.length - 1, 0);
  if (!liveTimes.length) liveTimes.push(0);
  target.draw(frame, box);
  target.add(frame, found);
}

async function endLive(): Promise<void> {
  if (busy !== "live") return;
  busy = null;
  for (const track of (camera.srcObject as MediaStream).getTracks()) track.stop();
  camera.srcObject = null;
  await remote.call("liveEnd", []);
  say("The webcam is closed.");
}

// ── downloads ─────────────────────────────────────────────────────────────────────────────────────────────────────

const stem = () => (info?.name ?? "webcam").replace(/\.[^.]*$/, "");

function about() {
  const model = find<HTMLSelectElement>("model").value;
  const { width, height } = stage.picture;
  const shape = info ?? { name: "webcam", width, height, pixelAspect: [1, 1] as const, times: liveTimes };
  return { ...shape, source: shape.name, model };
}

async function saveVideo(): Promise<void> {
  if (!info || busy) return;
  halt();
  const frames = targets.flatMap((target) => [...target.tracks.keys()]);
  const [first, last] = [Math.min(...frames), Math.max(...frames)];
  const named = targets.length > 1 || targets.some(({ name }) => name);
  const drawn = targets.map((target) => ({
    target: target.id,
    color: target.color,
    label: named ? label(target) : "",
    tracks: target.tracks,
  }));
  busy = "writing";
  render();
  try {
    const writing = remote.call("annotate", [drawn, first, last]);
    working = writing;
    const written = await writing;
    if (written) save(written.blob, `${stem()}-tracked${written.extension}`);
    say(written ? `Saved ${stem()}-tracked${written.extension}.` : "Stopped; nothing was saved.");
  } finally {
    busy = null;
  }
}

// ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────

let drawing = false;

function render(): void {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    paint();
  });
}

function paint(): void {
  const last = count() - 1;
  const several = targets.length > 1;
  stage.draw(
    targets.flatMap((target) => {
      const track = target.tracks.get(info ? stage.frame : frame); // the picture may come later than the number
      const color = several ? target.color : scoreColor(track?.score ?? 1);
      return track ? [{ track, color, label: several || target.name ? label(target) : "" }] : [];
    }),
  );
  timeline.draw({ targets, selected, frame, last });
  const time = (info?.times ?? liveTimes)[frame] ?? 0;
  find("place").textContent = `${frame} / ${last}  ·  ${time.toFixed(2)} s`;
  const idle = busy === null;
  button("play").classList.toggle("playing", speed !== 0);
  for (const id of ["back", "play", "forward"]) button(id).disabled = !idle || !info;
  const pending = targets.some(({ next }) => next !== null && next <= last);
  const tracked = targets.some(({ tracks }) => tracks.size > 0);
  button("track").textContent = busy === "tracking" || busy === "writing" ? "Stop" : busy === "live" ? "Close webcam" : "Track";
  button("track").disabled = idle && !pending;
  const doubtful = idle ? countDoubtful(targets, last) : 0;
  button("doubtful").textContent = doubtful ? `Next doubtful (${doubtful})` : "Next doubtful";
  button("doubtful").disabled = !idle || !doubtful;
  button("csv").disabled = button("json").disabled = !tracked || busy === "tracking";
  button("video").disabled = !tracked || !info || !idle;
  button("video").title = info ? "The frames with the boxes drawn on them" : "Of the webcam no frames are kept";
  button("add").disabled = !selected;
  find<HTMLSelectElement>("model").disabled = !idle;
  find("hint").textContent = hint();
  paintTargets();
  paintFrame();
}

function hint(): string {
  if (busy === "tracking" || busy === "writing" || busy === "opening") return "";
  if (!selected) return "Drag a box around the object";
  if (!selected.tracks.size) return "Drag a box around the new target";
  if (busy === "live") return "";
  if (selected.next !== null && selected.anchors.has(selected.next)) return "";
  return selected.isDoubtful(frame) ? "Wrong? Drag the right box, then track on from here" : "";
}

function paintTargets(): void {
  const list = find("targets");
  if (list.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement) return;
  list.replaceChildren(
    ...targets.map((target) => {
      const item = document.createElement("li");
      item.classList.toggle("selected", target === selected);
      item.onclick = () => {
        selected = target;
        render();
      };
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = target.color;
      const name = document.createElement("input");
      name.value = target.name;
      name.placeholder = `target ${target.id}`;
      name.setAttribute("aria-label", `Name of target ${target.id}`);
      name.oninput = () => (target.name = name.value);
      name.onchange = render;
      const frames = document.createElement("small");
      frames.textContent = `${target.tracks.size} frames`;
      const cross = document.createElement("button");
      cross.textContent = "×";
      cross.setAttribute("aria-label", `Remove ${label(target)}`);
      cross.disabled = busy !== null;
      cross.onclick = (event) => {
        event.stopPropagation();
        remove(target);
      };
      item.append(swatch, name, frames, cross);
      return item;
    }),
  );
}

function paintFrame(): void {
  const track = selected?.tracks.get(frame);
  find("now").hidden = !selected;
  find("state").textContent = track ? (selected!.anchors.has(frame) ? "drawn" : track.state) : "–";
  find("score-text").textContent = track ? track.score.toFixed(2) : "–";
  find<HTMLMeterElement>("score").value = track?.score ?? 0;
  const input = find<HTMLInputElement>("box");
  if (document.activeElement !== input) input.value = track ? track.box.map((v) => Number(v.toFixed(3))).join(", ") : "";
  const templates = selected?.templates(frame) ?? [];
  const shown = templates.map((template) => `${selected!.id}:${template.frame}:${template.used}`).join();
  const root = find("templates");
  if (root.dataset.shown === shown) return;
  root.dataset.shown = shown;
  const figures = templates.flatMap(({ frame: at, used }) => {
    const pixels = selected!.crops.get(at);
    if (!pixels) return [];
    const figure = document.createElement("figure");
    figure.className = used ? "used" : "held";
    figure.title = used ? "In use" : "Held, not in use now";
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = pixels.width;
    canvas.getContext("2d")!.putImageData(pixels, 0, 0);
    const caption = document.createElement("figcaption");
    caption.textContent = String(at);
    figure.append(canvas, caption);
    return [figure];
  });
  const empty = document.createElement("p");
  empty.className = "hint";
  empty.textContent = "Pictures of the target that the network compares with.";
  root.replaceChildren(...(figures.length ? figures : [empty]));
}

// ── what the visitor does ─────────────────────────────────────────────────────────────────────────────────────────

function stop(): void {
  if (stage.cancel()) return;
  if (busy === "tracking" || busy === "writing") {
    cancelled = true;
    void remote.call("stop", []);
  } else if (busy === "live") attempt(endLive);
  else halt();
}

function jump(step: 1 | -1): void {
  const at = nextDoubtful(targets, frame, count() - 1, step) ?? nextDoubtful(targets, step > 0 ? -1 : count(), count() - 1, step);
  if (at !== null) void go(at);
}

function step(by: number): void {
  halt();
  void go(frame + by);
}

const files = find<HTMLInputElement>("file");
const openFile = (file: File | null | undefined) => file && attempt(() => openClip(file, file.name));

for (const id of ["choose", "open"]) button(id).onclick = () => files.click();
files.onchange = () => {
  openFile(files.files?.[0]);
  files.value = "";
};
button("sample").onclick = () => attempt(openSample);
button("webcam").onclick = () => attempt(openWebcam);
button("back").onclick = () => step(-1);
button("forward").onclick = () => step(1);
button("play").onclick = () => play(speed ? 0 : 1);
button("doubtful").onclick = () => jump(1);
button("track").onclick = () => (busy ? stop() : attempt(trackAll));
button("add").onclick = () => {
  selected = null;
  render();
};
button("csv").onclick = () => save(toCsv(targets, about().times), `${stem()}.csv`);
button("json").onclick = () => save(toJson(targets, about()), `${stem()}.json`);
button("video").onclick = () => attempt(saveVideo);
find("error").querySelector("button")!.onclick = () => (find("error").hidden = true);
find<HTMLSelectElement>("model").onchange = loadModel;
find<HTMLInputElement>("box").onchange = ({ target }) => {
  const input = target as HTMLInputElement;
  const four = input.value.split(/[\s,]+/).filter(Boolean).map(Number);
  input.blur();
  if (four.length !== 4) return complain(new Problem("A box is four numbers: x, y, width, height in pixels."));
  if (canDraw()) drawBox(four as unknown as Box);
};

document.addEventListener("keydown", (event) => {
  const field = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
  if (event.key === "Escape") return stop();
  if (field || event.ctrlKey || event.metaKey || event.altKey) return;
  const steps: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (event.key in steps) step(steps[event.key] * (event.shiftKey ? 10 : 1));
  else if (event.key === " ") play(speed ? 0 : 1);
  else if (event.key.toLowerCase() === "j") play(speed < 0 ? speed * 2 : -1);
  else if (event.key.toLowerCase() === "k") halt();
  else if (event.key.toLowerCase() === "l") play(speed > 0 ? speed * 2 : 1);
  else if (event.key.toLowerCase() === "n") jump(event.shiftKey ? -1 : 1);
  else if (event.key === "Enter" && !(event.target instanceof HTMLButtonElement)) attempt(trackAll);
  else return;
  event.preventDefault();
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFile(event.dataTransfer?.files[0]);
});

if ("VideoDecoder" in globalThis) loadModel();
else complain(new Problem("This browser cannot decode video frame by frame (WebCodecs); use a current Chrome, Edge, Firefox or Safari, and https."));
