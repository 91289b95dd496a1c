/** Frames as decoders give them, seen upright: only the pixels that a crop needs are converted to RGB. */

import type { Tables } from "./color";
import type { Frame, Pixels } from "./geometry";

/** How upright pixels lie in the coded picture: coded = origin + x · right + y · down. */
export interface Placement {
  width: number;
  height: number;
  origin: readonly [number, number];
  right: readonly [number, number];
  down: readonly [number, number];
}

/** The placement of a coded picture that is shown turned clockwise, then mirrored. */
export function place(width: number, height: number, rotation: number, flip: boolean): Placement {
  const [w, h] = [width - 1, height - 1];
  const turned: Record<number, Placement> = {
    0: { width, height, origin: [0, 0], right: [1, 0], down: [0, 1] },
    90: { width: height, height: width, origin: [0, h], right: [0, -1], down: [1, 0] },
    180: { width, height, origin: [w, h], right: [-1, 0], down: [0, -1] },
    270: { width: height, height: width, origin: [w, 0], right: [0, 1], down: [-1, 0] },
  };
  const upright = turned[rotation];
  if (!flip) return upright;
  const [dx, dy] = upright.right;
  const last = upright.width - 1;
  const origin = [upright.origin[0] + last * dx, upright.origin[1] + last * dy] as const;
  return { ...upright, origin, right: [-dx, -dy] };
}

/** A plane of samples: `data[offset + y · stride + x · step]`. */
export interface Plane {
  data: Pixels["data"];
  offset: number;
  stride: number;
  step: number;
}

/** Reads upright pixels, whatever their kind. */
abstract class UprightFrame implements Frame {
  readonly width: number;
  readonly height: number;

  constructor(private readonly placement: Placement) {
    this.width = placement.width;
    this.height = placement.height;
  }

  region(left: number, top: number, right: number, bottom: number): Pixels {
    return this.#walk(left, top, right - left, bottom - top, 1, 1);
  }

  sample(stepX: number, stepY: number): Pixels {
    return this.#walk(0, 0, Math.ceil(this.width / stepX), Math.ceil(this.height / stepY), stepX, stepY);
  }

  #walk(left: number, top: number, width: number, height: number, stepX: number, stepY: number): Pixels {
    const data = new Uint8ClampedArray(width * height * 3);
    const { origin, right, down } = this.placement;
    const [dx, dy] = [right[0] * stepX, right[1] * stepX];
    for (let row = 0; row < height; row++) {
      const line = top + row * stepY;
      const x = origin[0] + left * right[0] + line * down[0];
      const y = origin[1] + left * right[1] + line * down[1];
      this.read(data, row * width * 3, width, x, y, dx, dy);
    }
    return { width, height, data };
  }

  /** Write `count` pixels from `at` on: those of the coded picture from `x, y` on in steps of `dx, dy`. */
  protected abstract read(
    data: Uint8ClampedArray,
    at: number,
    count: number,
    x: number,
    y: number,
    dx: number,
    dy: number,
  ): void;
}

/** A picture of Y, U and V planes with 8 bits; chroma is halved by `shift` in x and y. */
export class YuvFrame extends UprightFrame {
  constructor(
    private readonly planes: readonly [Plane, Plane, Plane],
    private readonly shift: readonly [number, number],
    private readonly tables: Tables,
    placement: Placement,
  ) {
    super(placement);
  }

  protected read(data: Uint8ClampedArray, at: number, count: number, x: number, y: number, dx: number, dy: number): void {
    const [luma, u, v] = this.planes;
    const { y: gray, redV, greenU, greenV, blueU } = this.tables;
    const [shiftX, shiftY] = this.shift;
    for (let i = 0; i < count; i++, at += 3, x += dx, y += dy) {
      const light = gray[luma.data[luma.offset + y * luma.stride + x * luma.step]];
      const chroma = (y >> shiftY) * u.stride + (x >> shiftX) * u.step;
      const blue = u.data[u.offset + chroma];
      const red = v.data[v.offset + chroma];
      data[at] = light + redV[red];
      data[at + 1] = light + greenU[blue] + greenV[red];
      data[at + 2] = light + blueU[blue];
    }
  }
}

/** A picture of pixels with `step` bytes, red first. */
export class RgbFrame extends UprightFrame {
  constructor(
    private readonly plane: Plane,
    placement: Placement,
  ) {
    super(placement);
  }

  protected read(data: Uint8ClampedArray, at: number, count: number, x: number, y: number, dx: number, dy: number): void {
    const { data: from, offset, stride, step } = this.plane;
    for (let i = 0; i < count; i++, at += 3, x += dx, y += dy) {
      const pixel = offset + y * stride + x * step;
      data[at] = from[pixel];
      data[at + 1] = from[pixel + 1];
      data[at + 2] = from[pixel + 2];
    }
  }
}
