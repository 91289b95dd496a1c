/** Any frame of a clip as a picture, quickly where frames are asked for one after the other, on or back. */

import type { Clip, Numbered } from "./video";

const AHEAD = 24; // frames decoded on the way to one that is wanted, before a new start is quicker
const BACK = 16; // frames decoded before the one that is wanted, when stepping back
const KEPT_PIXELS = 40_000_000;

export class Player {
  #kept = new Map<number, ImageBitmap>();
  #frames: AsyncGenerator<Numbered> | null = null;
  #last = -1;

  constructor(private readonly clip: Clip) {}

  async picture(wanted: number): Promise<ImageBitmap | null> {
    const known = this.#kept.get(wanted);
    if (known) return createImageBitmap(known);
    const gap = wanted - this.#last;
    if (!this.#frames || gap <= 0 || gap > AHEAD) {
      const back = this.#kept.has(wanted + 1) ? BACK : 0;
      await this.close();
      this.#frames = this.clip.samples(Math.max(wanted - back, 0));
      this.#last = -1;
    }
    while (this.#last < wanted) {
      const { value, done } = await this.#frames.next();
      if (done) {
        this.#frames = null;
        return null;
      }
      this.#last = value.index;
      this.#keep(value.index, bitmap(this.clip, value.sample));
      value.sample.close();
    }
    const found = this.#kept.get(wanted);
    return found ? createImageBitmap(found) : null;
  }

  async close(): Promise<void> {
    await this.#frames?.return(undefined);
    this.#frames = null;
  }

  #keep(index: number, picture: ImageBitmap): void {
    this.#kept.get(index)?.close();
    this.#kept.delete(index);
    this.#kept.set(index, picture);
    const most = Math.max(KEPT_PIXELS / (picture.width * picture.height), BACK + 2);
    for (const [oldest, old] of this.#kept) {
      if (this.#kept.size <= most) break;
      old.close();
      this.#kept.delete(oldest);
    }
  }
}

/** A sample as an upright picture. */
export function bitmap({ info }: Clip, sample: Numbered["sample"]): ImageBitmap {
  const canvas = new OffscreenCanvas(info.width, info.height);
  sample.draw(canvas.getContext("2d")!, 0, 0, info.width, info.height);
  return canvas.transferToImageBitmap();
}
