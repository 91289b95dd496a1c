/**
 * Boxes and crops, as in Python's `geometry.py`: image boxes are x, y, w, h in pixels; a crop is a square window, in
 * whose own frame boxes are corners x0, y0, x1, y1 within [0, 1].
 */

export type Box = readonly [number, number, number, number];

/** Pixels in RGB, row by row. */
export interface Pixels {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray;
}

/** A frame that converts only the pixels that are asked for. */
export interface Frame {
  width: number;
  height: number;
  /** The pixels of columns `left` to `right` and rows `top` to `bottom`, ends excluded, all within the frame. */
  region(left: number, top: number, right: number, bottom: number): Pixels;
  /** Of the whole frame every `stepX`-th column and `stepY`-th row. */
  sample(stepX: number, stepY: number): Pixels;
}

/** ImageNet's mean color, RGB: what lies outside of the image. */
export const PADDING = [124, 116, 104] as const;
const MIN_WINDOW = 16;
const LONG_MARGIN = 1.15;
const MAX_BOX = 10;

const single = Math.fround;
/** a·b + c in single precision, rounded once. */
const fused = (a: number, b: number, c: number) => single(a * b + c);

export function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}

/** The nearest integer; of two, the even one. */
export function roundEven(value: number): number {
  const up = Math.floor(value + 0.5);
  return value + 0.5 === up && up % 2 !== 0 ? up - 1 : up;
}

export class Crop {
  constructor(
    readonly x: number,
    readonly y: number,
    readonly side: number,
  ) {}

  static around([x, y, w, h]: Box, factor: number): Crop {
    const side = Math.max(factor * Math.sqrt(w * h), MIN_WINDOW);
    return new Crop(x + w / 2 - side / 2, y + h / 2 - side / 2, side);
  }

  /** The window of a template: wider for a long target, so that it shows all of it. */
  static template(box: Box, factor: number): Crop {
    const long = (LONG_MARGIN * Math.max(box[2], box[3])) / Math.max(Math.sqrt(box[2] * box[3]), 1e-9);
    return Crop.around(box, Math.min(Math.max(factor, long), 1.5 * factor));
  }

  /** The window around the same center with `share` of the side. */
  center(share: number): Crop {
    const edge = (this.side * (1 - share)) / 2;
    return new Crop(this.x + edge, this.y + edge, this.side * share);
  }

  toCrop([x, y, w, h]: Box): Box {
    const { side } = this;
    return [(x - this.x) / side, (y - this.y) / side, (x + w - this.x) / side, (y + h - this.y) / side];
  }

  toImage([x0, y0, x1, y1]: Box): Box {
    const { side } = this;
    return [x0 * side + this.x, y0 * side + this.y, x1 * side - x0 * side, y1 * side - y0 * side];
  }

  /** The window as `size` × `size` pixels in RGB: every value as OpenCV 5 gives it to Python. */
  extract(frame: Frame, size: number): Uint8Array {
    let scale = this.side / size;
    let { x, y } = this;
    const block = Math.trunc(scale);
    let source: Source = { frame, width: frame.width, height: frame.height };
    if (block >= 2) {
      const left = Math.max(Math.floor(x), 0);
      const top = Math.max(Math.floor(y), 0);
      const columns = Math.ceil((Math.min(Math.ceil(x + this.side), frame.width) - left) / block);
      const rows = Math.ceil((Math.min(Math.ceil(y + this.side), frame.height) - top) / block);
      if (columns > 0 && rows > 0) {
        const [right, bottom] = [left + columns * block, top + rows * block];
        const part = frame.region(left, top, Math.min(right, frame.width), Math.min(bottom, frame.height));
        source = { pixels: blockMeans(part, block, columns, rows), left: 0, top: 0, width: columns, height: rows };
        [x, y, scale] = [(x - left) / block, (y - top) / block, scale / block];
      }
    }
    return interpolate(source, scale, x + 0.5 * scale - 0.5, y + 0.5 * scale - 0.5, size);
  }
}

/** A whole frame, or pixels of it that begin at `left`, `top`. Outside of `width` × `height` all is padding. */
type Source = { width: number; height: number } & ({ frame: Frame } | { pixels: Pixels; left: number; top: number });

/** Means over whole blocks; what the pixels lack on the right and below is padding. */
function blockMeans({ width, height, data }: Pixels, block: number, columns: number, rows: number): Pixels {
  const means = new Uint8Array(columns * rows * 3);
  const share = single(1 / (block * block));
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < 3; channel++) {
        const across = Math.min(block, width - column * block);
        const down = Math.min(block, height - row * block);
        let sum = (block * block - across * down) * PADDING[channel];
        for (let j = 0; j < down; j++) {
          const line = ((row * block + j) * width + column * block) * 3 + channel;
          for (let i = 0; i < across; i++) sum += data[line + 3 * i];
        }
        means[at++] = block === 2 ? (sum + 2) >> 2 : roundEven(single(sum * share));
      }
    }
  }
  return { width: columns, height: rows, data: means };
}

/** Linear interpolation in single precision; output pixel i lies at `scale` · i + `offset`. */
function interpolate(source: Source, scale: number, offsetX: number, offsetY: number, size: number): Uint8Array {
  const step = single(scale);
  const xs = new Int32Array(size);
  const ys = new Int32Array(size);
  const weightX = new Float32Array(size);
  const weightY = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const x = fused(i, step, single(offsetX));
    const y = single(single(i * step) + single(offsetY));
    weightX[i] = x - (xs[i] = Math.floor(x));
    weightY[i] = y - (ys[i] = Math.floor(y));
  }
  const { width, height } = source;
  const { pixels, left, top } =
    "pixels" in source ? source : visible(source.frame, xs[0], ys[0], xs[size - 1] + 2, ys[size - 1] + 2);
  const { data } = pixels;
  const out = new Uint8Array(size * size * 3);
  for (let row = 0, at = 0; row < size; row++) {
    const upperIn = ys[row] >= 0 && ys[row] < height;
    const lowerIn = ys[row] + 1 >= 0 && ys[row] + 1 < height;
    const upper = (ys[row] - top) * pixels.width;
    const lower = upper + pixels.width;
    const wy = weightY[row];
    for (let column = 0; column < size; column++) {
      const x = xs[column];
      const leftIn = x >= 0 && x < width;
      const rightIn = x + 1 >= 0 && x + 1 < width;
      const a = (upper + x - left) * 3;
      const c = (lower + x - left) * 3;
      const wx = weightX[column];
      for (let channel = 0; channel < 3; channel++, at++) {
        const pad = PADDING[channel];
        const p00 = upperIn && leftIn ? data[a + channel] : pad;
        const p01 = upperIn && rightIn ? data[a + 3 + channel] : pad;
        const p10 = lowerIn && leftIn ? data[c + channel] : pad;
        const p11 = lowerIn && rightIn ? data[c + 3 + channel] : pad;
        const first = fused(wx, p01 - p00, p00);
        const second = fused(wx, p11 - p10, p10);
        out[at] = roundEven(fused(wy, single(second - first), first));
      }
    }
  }
  return out;
}

/** The pixels of a frame within the given bounds, and where they begin. */
function visible(frame: Frame, x0: number, y0: number, x1: number, y1: number) {
  const left = clamp(x0, 0, frame.width);
  const top = clamp(y0, 0, frame.height);
  const right = clamp(x1, left, frame.width);
  const bottom = clamp(y1, top, frame.height);
  return { pixels: frame.region(left, top, right, bottom), left, top };
}

/** A sentence on what is wrong with a box that a user drew, or null. */
export function checkBox([x, y, w, h]: Box, width: number, height: number): string | null {
  if (![x, y, w, h].every(Number.isFinite)) return "The box holds a number that is not finite.";
  if (w <= 0 || h <= 0) return "The box has no area; drag from one corner of the object to the other.";
  if (x >= width || y >= height || x + w <= 0 || y + h <= 0) return "The box lies outside of the frame.";
  if (w > MAX_BOX * width || h > MAX_BOX * height) return "The box is far larger than the frame.";
  return null;
}

/** The part of a box in the image; of one that has left it, a sliver of at most one pixel at the nearest border. */
export function clipBox([x, y, w, h]: Box, width: number, height: number): Box {
  const keepW = Math.min(1, w, width);
  const keepH = Math.min(1, h, height);
  const x0 = Math.min(Math.max(x, 0), width - keepW);
  const y0 = Math.min(Math.max(y, 0), height - keepH);
  const x1 = Math.min(Math.max(x + w, x0 + keepW), width);
  const y1 = Math.min(Math.max(y + h, y0 + keepH), height);
  return [x0, y0, x1 - x0, y1 - y0];
}

/** Intersection over union of image boxes; 0 where the union is empty. */
export function iou(a: Box, b: Box): number {
  const width = Math.max(Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]), 0);
  const height = Math.max(Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]), 0);
  const overlap = width * height;
  const union = Math.max(a[2], 0) * Math.max(a[3], 0) + Math.max(b[2], 0) * Math.max(b[3], 0) - overlap;
  return union > 0 ? overlap / union : 0;
}
