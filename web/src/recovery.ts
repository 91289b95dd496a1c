/** When a target is lost, and where it is sought then, as in Python's `recovery.py`. Pure functions of values. */

import type { Scene } from "./distractors";
import { type Box, Crop, type Frame, iou, roundEven } from "./geometry";

export type Status = "tracking" | "uncertain" | "lost";

/** A track whose score is under the first is uncertain; lost from a score under the second until that is over. */
const [UNCERTAIN, LOST] = [0.5, 0.3];

/** The state that a track tells: whether its target is sought, its score, and the state told on the last frame. */
export function told(sought: boolean, score: number, before: Status): Status {
  if (sought || score < (before === "lost" ? UNCERTAIN : LOST)) return "lost";
  return score < UNCERTAIN ? "uncertain" : "tracking";
}

const GROWTH = 1.3;
const WIDEST = 2.5;
const TILES = 6;
const TILE_SHARE = 0.75;
const RATE_MEMORY = 0.9;
const RATE_FACTOR = 3;
const LARGEST_RATIO = 2.5;
const PLAIN_DEVIATION = 4;
const THUMBNAIL = [16, 12] as const;
const CUT_CORRELATION = 0.65;
const CUT_DEVIATION = 8;
/** Frames until the windows around the last sure place have grown to their largest. */
export const GROWING = Math.ceil(Math.log(WIDEST) / Math.log(GROWTH));

/** IoU of two boxes of one target under which it has jumped. */
export const JUMP = 0.1;
/** So many frames after a target was found elsewhere, each third one, the place where it was lost is looked at. */
const [WATCHED, WATCH_INTERVAL] = [100, 3];

type Pair = readonly [number, number];

/** The place where a target was lost that was found elsewhere since: it may show up there again. */
export interface Watch {
  /** The last sure image box before the loss. */
  place: Box;
  /** The frame from which on the target was followed elsewhere. */
  since: number;
}

/** Whether on this frame the target has been followed elsewhere for so long that it is the right one. */
function isOver({ since }: Watch, number: number): boolean {
  return number - since > WATCHED;
}

/** Whether the place is looked at on this frame. */
export function isDue(watch: Watch, number: number): boolean {
  return !isOver(watch, number) && number > watch.since && (number - watch.since) % WATCH_INTERVAL === 0;
}

export interface Recovery {
  /** The last sure image box. */
  sure: Box;
  status: Status;
  /** Frames since the last sure one. */
  doubtful: number;
  /** Frames since it was lost on which there was something to see. */
  turn: number;
  /** Whether a lost target was found on the last frame, which the next one has to confirm. */
  found: boolean;
  /** The frame of the last template, which tells distractors. */
  scene: Scene | null;
  /** Where the target was lost, while it is not certain that what was found elsewhere is the target. */
  watch: Watch | null;
  /** The usual absolute change of the logarithm of width and height a frame. */
  rate: Pair;
}

export function sureAt(box: Box, scene: Scene | null, rate: Pair = [0, 0]): Recovery {
  return { sure: box, status: "tracking", doubtful: 0, turn: 0, found: false, scene, watch: null, rate };
}

/** Once the target is followed for sure in an image box, on the frame of this number. */
export function followedAt(before: Recovery, box: Box, rate: Pair, number: number): Recovery {
  let watch = before.watch && !isOver(before.watch, number) ? before.watch : null;
  if (!watch && before.found && iou(before.sure, box) < JUMP) watch = { place: before.sure, since: number };
  return { ...sureAt(box, before.scene, rate), watch };
}

/** Whether the next frame is searched for a target that has not been found yet. */
export function isSeeking(recovery: Recovery): boolean {
  return recovery.status === "lost" && !recovery.found;
}

/** New sides, whose change from the last box is bounded by what is usual, and the usual change then. */
export function limited(recovery: Recovery, last: Box, sides: Pair, least: number): { sides: Pair; rate: Pair } {
  const each = [0, 1].map((i) => {
    const change = Math.log(sides[i] / last[2 + i]);
    const bound = Math.max(least, RATE_FACTOR * recovery.rate[i]);
    const rate = RATE_MEMORY * recovery.rate[i] + (1 - RATE_MEMORY) * Math.min(Math.abs(change), 0.5);
    return { side: last[2 + i] * Math.exp(Math.min(Math.max(change, -bound), bound)), rate };
  });
  return { sides: [each[0].side, each[1].side], rate: [each[0].rate, each[1].rate] };
}

/** A box of a frame of one size in a frame of another. */
export function scaleBox(box: Box, from: Pair, to: Pair): Box {
  return box.map((value, i) => value * (to[i % 2] / from[i % 2])) as unknown as Box;
}

/** In a frame of another size. */
export function scaled(recovery: Recovery, from: Pair, to: Pair): Recovery {
  return { ...recovery, sure: scaleBox(recovery.sure, from, to), scene: null, watch: null };
}

/** Whether an image box may be the target's, by its size. */
export function isPlausible({ sure }: Recovery, box: Box): boolean {
  return [2, 3].every((i) => Math.abs(Math.log(box[i] / sure[i])) < Math.log(LARGEST_RATIO));
}

/** The windows, one or two, that are searched on the `turn`-th frame since a target was lost, counted from 0. */
export function seek(sure: Box, size: Pair, factor: number, turn: number): Crop[] {
  const base = Crop.around(sure, factor);
  if (turn < GROWING) return [base.center(GROWTH ** turn)];
  const tiles = cover(size, base.side);
  const place = turn - GROWING;
  return [base.center([1, WIDEST, WIDEST ** 0.5][place % 3]), tiles[place % tiles.length]];
}

/** Windows of this side or more that cover a frame, row by row. */
export function cover(size: Pair, side: number): Crop[] {
  let window = side;
  let counts: number[] = [];
  for (const scale of [1, 1.4, 1.9, WIDEST]) {
    window = side * scale;
    counts = size.map((length) => Math.max(Math.ceil((length / window - 1) / TILE_SHARE), 0) + 1);
    if (counts[0] * counts[1] <= TILES) break;
  }
  const [xs, ys] = size.map((length, axis) => {
    if (counts[axis] === 1) return [length / 2];
    const step = (length - window) / (counts[axis] - 1);
    return Array.from({ length: counts[axis] }, (_, i) => window / 2 + i * step);
  });
  return ys.flatMap((y) => xs.map((x) => new Crop(x - window / 2, y - window / 2, window)));
}

/**
 * Whether a crop of a window shows nothing: one color, as a black frame does. What is padding, beyond a frame of this
 * size or next to its border, does not count.
 */
export function isPlain(crop: Uint8Array, side: number, window: Crop, size: Pair): boolean {
  const scale = window.side / side;
  const margin = 1.5 * Math.max(scale, 1);
  const [x, y] = [window.x, window.y].map((start, axis) => ({
    low: Math.max(Math.ceil((margin - start) / scale - 0.5), 0),
    high: Math.min(Math.ceil((size[axis] - margin - start) / scale - 0.5), side),
  }));
  if (x.high <= x.low || y.high <= y.low) return false;
  for (let channel = 0; channel < 3; channel++) {
    let [count, sum, squares] = [0, 0, 0];
    for (let row = y.low; row < y.high; row += 4) {
      for (let column = x.low; column < x.high; column += 4) {
        const value = crop[(row * side + column) * 3 + channel];
        count++;
        sum += value;
        squares += value * value;
      }
    }
    if (squares / count - (sum / count) ** 2 >= PLAIN_DEVIATION ** 2) return false;
  }
  return true;
}

/** A thumbnail of a frame's green, of mean 0. */
export function thumbnail(frame: Frame): Float64Array {
  const [columns, rows] = THUMBNAIL;
  const step = (length: number, small: number) => Math.max(Math.floor(length / (8 * small)), 1);
  const { width, height, data } = frame.sample(step(frame.width, columns), step(frame.height, rows));
  const share = (width / columns) * (height / rows);
  const small = new Float64Array(columns * rows).map((_, at) => {
    const [column, row] = [at % columns, Math.floor(at / columns)];
    const [x0, x1] = [(column * width) / columns, ((column + 1) * width) / columns];
    const [y0, y1] = [(row * height) / rows, ((row + 1) * height) / rows];
    let sum = 0;
    for (let y = Math.floor(y0); y < Math.min(Math.ceil(y1), height); y++) {
      const high = Math.min(y + 1, y1) - Math.max(y, y0);
      for (let x = Math.floor(x0); x < Math.min(Math.ceil(x1), width); x++) {
        sum += high * (Math.min(x + 1, x1) - Math.max(x, x0)) * data[(y * width + x) * 3 + 1];
      }
    }
    return roundEven(sum / share);
  });
  const mean = average(small);
  return small.map((value) => value - mean);
}

/** Whether there may be a cut between the frames of two thumbnails. */
export function isCut(before: Float64Array, after: Float64Array): boolean {
  const deviation = (values: Float64Array) => Math.sqrt(average(values.map((value) => value * value)));
  const [first, second] = [deviation(before), deviation(after)];
  const product = average(before.map((value, i) => value * after[i]));
  return Math.min(first, second) >= CUT_DEVIATION && product < CUT_CORRELATION * first * second;
}

function average(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
