/** What was seen beside the target is not the target, as in Python's `distractors.py`. */

import { place, RgbFrame } from "./frames";
import { type Box, Crop, type Frame, type Pixels } from "./geometry";

const PATCH = 20;
const CONTEXT = 1.4;
const NEARBY = 1.5;
const BESIDE = 0.9;
const SEEN_BEFORE = 0.6;
const MARGIN = 0.15;

type Point = readonly [number, number];

/** A frame with a target: every `step`-th pixel, and the target's image box. */
export interface Scene {
  pixels: Pixels;
  step: number;
  box: Box;
}

/** A copy of a frame, as fine as its target needs. */
export function sceneOf(frame: Frame, box: Box, step?: number): Scene {
  const fine = step ?? Math.max(Math.trunc((sizeOf(box) * CONTEXT) / PATCH), 1);
  return { pixels: frame.sample(fine, fine), step: fine, box };
}

/** Whether what a later box holds was already there, near that place, and beside the target. */
export function shows(scene: Scene, later: Scene): boolean {
  const [place, target] = [centerOf(later.box), centerOf(scene.box)];
  const side = sizeOf(later.box) * CONTEXT;
  const patch = cut(later, place, side, PATCH);
  const beside = best(scene, patch, side, place, target, (distance) => distance > BESIDE);
  if (beside < SEEN_BEFORE) return false;
  return beside > best(scene, patch, side, target, target, (distance) => distance < BESIDE) + MARGIN;
}

/** The best correlation of a patch with what is around a place, of those at a chosen distance from the target. */
function best(
  scene: Scene,
  patch: Float64Array,
  side: number,
  place: Point,
  target: Point,
  chosen: (distance: number) => boolean,
): number {
  const pixels = Math.round(PATCH * (1 + (2 * NEARBY) / CONTEXT));
  const found = cut(scene, place, (side * pixels) / PATCH, pixels);
  const far = (axis: number, i: number) => {
    const offset = ((i - (pixels - PATCH) / 2) * side) / PATCH;
    return (Math.abs(place[axis] + offset - target[axis]) * CONTEXT) / side;
  };
  let most = 0;
  for (let row = 0; row <= pixels - PATCH; row++) {
    for (let column = 0; column <= pixels - PATCH; column++) {
      if (chosen(Math.max(far(0, column), far(1, row)))) {
        most = Math.max(most, correlation(found, pixels, column, row, patch));
      }
    }
  }
  return most;
}

/** Of a patch with the part of an image of this width that begins at a column and a row. */
function correlation(image: Float64Array, width: number, column: number, row: number, patch: Float64Array): number {
  let [sum, squares, own, ownSquares, product] = [0, 0, 0, 0, 0];
  for (let y = 0; y < PATCH; y++) {
    for (let x = 0; x < PATCH; x++) {
      const value = image[(row + y) * width + column + x];
      const other = patch[y * PATCH + x];
      sum += value;
      squares += value * value;
      own += other;
      ownSquares += other * other;
      product += value * other;
    }
  }
  const count = PATCH * PATCH;
  const spread = (squares - (sum * sum) / count) * (ownSquares - (own * own) / count);
  return spread > 0 ? (product - (sum * own) / count) / Math.sqrt(spread) : 0;
}

/** Green of the square of this side around a place of the frame, `size` × `size`. */
function cut({ pixels, step }: Scene, center: Point, side: number, size: number): Float64Array {
  const window = new Crop((center[0] - side / 2) / step, (center[1] - side / 2) / step, side / step);
  const { width, height, data } = pixels;
  const frame = new RgbFrame({ data, offset: 0, stride: 3 * width, step: 3 }, place(width, height, 0, false));
  const rgb = window.extract(frame, size);
  return Float64Array.from({ length: size * size }, (_, i) => rgb[3 * i + 1]);
}

function centerOf([x, y, w, h]: Box): Point {
  return [x + w / 2, y + h / 2];
}

function sizeOf([, , w, h]: Box): number {
  return Math.sqrt(w * h);
}
