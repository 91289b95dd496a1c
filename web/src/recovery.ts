/** When a target is lost, and where it is sought then, as in Python's `recovery.py`. Pure functions of values. */

import { type Box, Crop } from "./geometry";

export type Status = "tracking" | "uncertain" | "lost";

const GROWTH = 1.3;
const WIDEST = 2.5;
const TILES = 6;
const TILE_SHARE = 0.75;
const RATE_MEMORY = 0.9;
const RATE_FACTOR = 3;
const LARGEST_RATIO = 2.5;
const PLAIN_DEVIATION = 4;

type Pair = readonly [number, number];

export interface Recovery {
  /** The last sure image box. */
  sure: Box;
  status: Status;
  /** Frames since the last sure one. */
  doubtful: number;
  /** Whether a lost target was found on the last frame, which the next one has to confirm. */
  found: boolean;
  /** The usual absolute change of the logarithm of width and height a frame. */
  rate: Pair;
}

export function sureAt(box: Box, rate: Pair = [0, 0]): Recovery {
  return { sure: box, status: "tracking", doubtful: 0, found: false, rate };
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

/** Whether an image box may be the target's, by its size. */
export function isPlausible({ sure }: Recovery, box: Box): boolean {
  return [2, 3].every((i) => Math.abs(Math.log(box[i] / sure[i])) < Math.log(LARGEST_RATIO));
}

/** The window that is searched on the `turn`-th frame since a target was lost, counted from 0. */
export function seek(sure: Box, size: Pair, factor: number, turn: number): Crop {
  const base = Crop.around(sure, factor);
  const growing = Math.ceil(Math.log(WIDEST) / Math.log(GROWTH));
  if (turn <= growing) return base.center(Math.min(GROWTH ** turn, WIDEST));
  const place = Math.floor((turn - growing - 1) / 2);
  if ((turn - growing - 1) % 2) {
    const tiles = cover(size, base.side);
    return tiles[place % tiles.length];
  }
  return base.center([1, WIDEST, WIDEST ** 0.5][place % 3]);
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

/** Whether a crop shows nothing: one color, as a black frame does. */
export function isPlain(crop: Uint8Array, side: number): boolean {
  for (let channel = 0; channel < 3; channel++) {
    let [count, sum, squares] = [0, 0, 0];
    for (let y = 0; y < side; y += 4) {
      for (let x = 0; x < side; x += 4) {
        const value = crop[(y * side + x) * 3 + channel];
        count++;
        sum += value;
        squares += value * value;
      }
    }
    if (squares / count - (sum / count) ** 2 >= PLAIN_DEVIATION ** 2) return false;
  }
  return true;
}
