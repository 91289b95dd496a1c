/** Results as text, laid out as the `fartrack` command writes them. */

import type { Target } from "./targets";

export interface About {
  source: string;
  width: number;
  height: number;
  pixelAspect: readonly [number, number];
  model: string;
  times: ArrayLike<number>;
}

interface Row {
  target: Target;
  frame: number;
  time: number;
  box: readonly number[];
  score: number;
  state: string;
}

/** In order of frames, then of targets. */
function rows(targets: readonly Target[], times: ArrayLike<number>): Row[] {
  const all = targets.flatMap((target) =>
    [...target.tracks].map(([frame, { box, score, state }]) => ({ target, frame, time: times[frame], box, score, state })),
  );
  return all.sort((a, b) => a.frame - b.frame || a.target.id - b.target.id);
}

const rounded = (value: number, digits: number) => Number(value.toFixed(digits));
const xywh = (box: readonly number[]) => Object.fromEntries(box.map((value, i) => ["xywh"[i], rounded(value, 3)]));
/** As Python writes a float. */
const float = (value: number, digits: number) => {
  const short = rounded(value, digits);
  return Number.isInteger(short) ? `${short}.0` : String(short);
};
const quoted = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

export function toCsv(targets: readonly Target[], times: ArrayLike<number>): string {
  const named = targets.length > 1 || targets.some((target) => target.name);
  const lines = rows(targets, times).map(({ target, frame, time, box, score, state }) => {
    const values = [frame, float(time, 6), ...box.map((v) => float(v, 3)), float(score, 4), state];
    return [...values, ...(named ? [quoted(label(target))] : [])].join(",");
  });
  return [`frame,time,x,y,w,h,score,state${named ? ",target" : ""}`, ...lines, ""].join("\n");
}

export function toJson(targets: readonly Target[], about: About): string {
  const { times, source, model, width, height, pixelAspect } = about;
  const duration = times.length > 1 ? times[times.length - 1] / (times.length - 1) : 0;
  const frames = rows(targets, times).map(({ target, frame, time, box, score, state }) => ({
    frame,
    time: rounded(time, 6),
    ...xywh(box),
    score: rounded(score, 4),
    state,
    target: target.id,
  }));
  const head = {
    schema_version: 1,
    source,
    model,
    fps: duration ? rounded(1 / duration, 3) : null,
    boxes: "x,y,w,h in pixels, from the top left",
    width,
    height,
    sample_aspect_ratio: pixelAspect.join(":"),
    frames,
    targets: targets.map(({ id, name, anchors }) => ({
      id,
      name,
      anchors: [...anchors].sort((a, b) => a[0] - b[0]).map(([frame, box]) => ({ frame, ...xywh(box) })),
    })),
  };
  return `${JSON.stringify(head, null, 1)}\n`;
}

export function label(target: Target): string {
  return target.name || `target ${target.id}`;
}

export function save(content: Blob | string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
