/** The targets of a clip: boxes that were drawn, tracks that were found, templates that were taken. */

import type { Box } from "./geometry";
import { PALETTE } from "./draw";
import type { FoundTrack, MemoryView, Order } from "./messages";
import type { Track } from "./tracker";

/** A frame whose score is under this is doubtful, as is one that is not `tracking`. */
export const DOUBTFUL = 0.5;

export class Target {
  readonly color: string;
  name = "";
  /** Boxes that were drawn, by frame. */
  readonly anchors = new Map<number, Box>();
  readonly tracks = new Map<number, Track>();
  readonly memories = new Map<number, MemoryView>();
  readonly crops = new Map<number, ImageData>();
  /** The first frame that is to be tracked, or null. */
  next: number | null = null;

  constructor(readonly id: number) {
    this.color = PALETTE[(id - 1) % PALETTE.length];
  }

  /** A box drawn on a frame: what was found before stays, what comes after is tracked anew. */
  draw(frame: number, box: Box): void {
    this.anchors.set(frame, box);
    this.#forget(frame);
    this.tracks.set(frame, { box, score: 1, state: "tracking" });
    this.next = Math.min(this.next ?? frame, frame);
  }

  add(frame: number, { box, score, state, memory }: FoundTrack): void {
    this.tracks.set(frame, { box, score, state });
    if (memory) {
      this.memories.set(frame, memory);
      const { taken } = memory;
      if (taken) this.crops.set(taken.frame + this.#base(frame), new ImageData(taken.pixels, taken.side));
    }
    this.next = frame + 1;
  }

  order(): Order | null {
    return this.next === null ? null : { target: this.id, anchors: [...this.anchors], from: this.next };
  }

  /** The templates used and held on a frame, by the clip's numbers of their frames. */
  templates(frame: number): { frame: number; used: boolean }[] {
    let at = frame;
    while (at >= 0 && !this.memories.has(at)) at--;
    const memory = this.memories.get(at);
    if (!memory || !this.tracks.has(frame)) return [];
    const base = this.#base(at);
    return memory.held.map((held) => ({ frame: held + base, used: memory.used.includes(held) }));
  }

  isDoubtful(frame: number): boolean {
    const track = this.tracks.get(frame);
    return track !== undefined && (track.state !== "tracking" || track.score < DOUBTFUL);
  }

  /** Trackers count from the frame on which they were started. */
  #base(frame: number): number {
    return Math.max(...[...this.anchors.keys()].filter((anchor) => anchor <= frame), 0);
  }

  #forget(from: number): void {
    for (const map of [this.tracks, this.memories]) {
      for (const frame of map.keys()) if (frame >= from && !(map === this.tracks && this.anchors.has(frame))) map.delete(frame);
    }
  }
}

/** The first frame of the next run of doubtful ones after `frame`, or before it; null if there is none. */
export function nextDoubtful(targets: readonly Target[], frame: number, last: number, step: 1 | -1): number | null {
  const doubtful = (at: number) => targets.some((target) => target.isDoubtful(at));
  for (let at = frame + step; at >= 0 && at <= last; at += step) {
    if (doubtful(at) && !doubtful(at - 1)) return at;
  }
  return null;
}

/** How many runs of doubtful frames there are. */
export function countDoubtful(targets: readonly Target[], last: number): number {
  let count = 0;
  for (let at = nextDoubtful(targets, -1, last, 1); at !== null; at = nextDoubtful(targets, at, last, 1)) count++;
  return count;
}
