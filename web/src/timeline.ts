/** The timeline: the selected target's score as a curve, below it a strip for each target, colored by score. */

import { scoreColor } from "./draw";
import type { Target } from "./targets";
import type { Track } from "./tracker";

const STRIP = 8;
const GAP = 3;
const MARGIN = 10;

export interface Shown {
  targets: readonly Target[];
  selected: Target | null;
  frame: number;
  /** The number of the last frame. */
  last: number;
}

export class Timeline {
  #shown: Shown = { targets: [], selected: null, frame: 0, last: 0 };

  constructor(
    private readonly canvas: HTMLCanvasElement,
    onSeek: (frame: number) => void,
  ) {
    const seek = ({ clientX }: PointerEvent) => {
      const { left, width } = canvas.getBoundingClientRect();
      const share = (clientX - left - MARGIN) / (width - 2 * MARGIN);
      onSeek(Math.round(Math.min(Math.max(share, 0), 1) * this.#shown.last));
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      seek(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) seek(event);
    });
    new ResizeObserver(() => this.#paint()).observe(canvas);
  }

  draw(shown: Shown): void {
    this.#shown = shown;
    this.canvas.setAttribute("aria-valuemax", String(shown.last));
    this.canvas.setAttribute("aria-valuenow", String(shown.frame));
    this.#paint();
  }

  #paint(): void {
    const { canvas } = this;
    const { targets, selected, frame, last } = this.#shown;
    const strips = Math.max(targets.length, 1) * (STRIP + GAP);
    canvas.style.height = `${70 + strips}px`;
    const scale = globalThis.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const context = canvas.getContext("2d")!;
    context.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const [text, line] = [style.getPropertyValue("color"), style.getPropertyValue("border-top-color")];
    const width = canvas.clientWidth - 2 * MARGIN;
    const place = (at: number) => MARGIN + (last ? (at / last) * width : 0);
    const [top, bottom] = [MARGIN, canvas.clientHeight - strips - MARGIN];
    const step = Math.max(width / Math.max(last, 1), 1);

    context.fillStyle = line;
    for (const level of [0, 0.5, 1]) context.fillRect(MARGIN, bottom - level * (bottom - top), width, level === 0.5 ? 0.5 : 1);
    if (selected) {
      let before = -Infinity;
      context.lineWidth = 1.75;
      for (const [x, { score, state }] of worst(selected, place)) {
        const y = bottom - score * (bottom - top);
        if (x - before <= step + 1) {
          context.strokeStyle = state === "lost" ? text : scoreColor(score);
          context.lineTo(x, y);
          context.stroke();
        }
        context.beginPath();
        context.moveTo(x, y);
        before = x;
      }
    }
    targets.forEach((target, lane) => {
      const y = bottom + MARGIN / 2 + GAP + lane * (STRIP + GAP);
      for (const [x, { score, state }] of worst(target, place)) {
        context.fillStyle = state === "lost" ? text : scoreColor(score);
        const height = state === "lost" ? STRIP / 2 : STRIP;
        context.fillRect(x - step / 2 - 0.5, y + (STRIP - height) / 2, step + 1, height);
      }
      for (const at of target.anchors.keys()) {
        context.fillStyle = target.color;
        context.strokeStyle = text;
        context.lineWidth = 1;
        context.beginPath();
        context.arc(place(at), y + STRIP / 2, STRIP / 2, 0, 7);
        context.fill();
        context.stroke();
      }
    });
    context.fillStyle = text;
    context.fillRect(place(frame) - 1, 2, 2, canvas.clientHeight - 4);
  }
}

/** The worst track of each column of pixels, from left to right. */
function worst(target: Target, place: (frame: number) => number): [number, Track][] {
  const columns = new Map<number, Track>();
  const rank = ({ state, score }: Track) => (state === "lost" ? -1 : score);
  for (const [frame, track] of target.tracks) {
    const x = Math.round(place(frame));
    const known = columns.get(x);
    if (!known || rank(track) < rank(known)) columns.set(x, track);
  }
  return [...columns].sort((a, b) => a[0] - b[0]);
}
