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
  data: Uint8Array;
  offset: number;
  stride: number;
  step: number;
}

/** A picture of Y, U and V planes with 8 bits; chroma is halved by `shift` in x and y. */
export class YuvFrame implements Frame {
  readonly width: number;
  readonly height: number;

  constructor(
    private readonly planes: readonly [Plane, Plane, Plane],
    private readonly shift: readonly [number, number],
    private readonly tables: Tables,
    private readonly placement: Placement,
  ) {
    this.width = placement.width;
    this.height = placement.height;
  }

  region(left: number, top: number, right: number, bottom: number): Pixels {
    const [width, height] = [right - left, bottom - top];
    const data = new Uint8ClampedArray(width * height * 3);
    const [luma, u, v] = this.planes;
    const { y: gray, redV, greenU, greenV, blueU } = this.tables;
    const [shiftX, shiftY] = this.shift;
    const { origin, right: across, down } = this.placement;
    for (let row = 0, at = 0; row < height; row++) {
      let x = origin[0] + left * across[0] + (top + row) * down[0];
      let y = origin[1] + left * across[1] + (top + row) * down[1];
      for (let column = 0; column < width; column++, at += 3, x += across[0], y += across[1]) {
        const light = gray[luma.data[luma.offset + y * luma.stride + x * luma.step]];
        const chroma = (y >> shiftY) * u.stride + (x >> shiftX) * u.step;
        const blue = u.data[u.offset + chroma];
        const red = v.data[v.offset + chroma];
        data[at] = light + redV[red];
        data[at + 1] = light + greenU[blue] + greenV[red];
        data[at + 2] = light + blueU[blue];
      }
    }
    return { width, height, data };
  }
}

/** A picture of pixels with `step` bytes, red first unless `bgr`. */
export class RgbFrame implements Frame {
  readonly width: number;
  readonly height: number;

  constructor(
    private readonly plane: Plane,
    private readonly placement: Placement,
    private readonly bgr = false,
  ) {
    this.width = placement.width;
    this.height = placement.height;
  }

  region(left: number, top: number, right: number, bottom: number): Pixels {
    const [width, height] = [right - left, bottom - top];
    const data = new Uint8Array(width * height * 3);
    const { data: from, offset, stride, step } = this.plane;
    const { origin, right: across, down } = this.placement;
    const [red, blue] = this.bgr ? [2, 0] : [0, 2];
    for (let row = 0, at = 0; row < height; row++) {
      let x = origin[0] + left * across[0] + (top + row) * down[0];
      let y = origin[1] + left * across[1] + (top + row) * down[1];
      for (let column = 0; column < width; column++, at += 3, x += across[0], y += across[1]) {
        const pixel = offset + y * stride + x * step;
        data[at] = from[pixel + red];
        data[at + 1] = from[pixel + 1];
        data[at + 2] = from[pixel + blue];
      }
    }
    return { width, height, data };
  }
}
