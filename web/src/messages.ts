/** What the page and its worker say to one another. */

import type { Box } from "./geometry";
import type { Status } from "./recovery";

export interface FoundTrack {
  target: number;
  box: Box;
  score: number;
  state: Status;
  /** The frames whose templates are in use and held, when that changed. */
  memory?: MemoryView;
}

export interface MemoryView {
  used: number[];
  held: number[];
  /** The picture of a template that was just taken, RGBA, square. */
  taken?: { frame: number; side: number; pixels: Uint8ClampedArray<ArrayBuffer> };
}

/** What is to be tracked: boxes that were drawn, by frame, and the frame to begin with. */
export interface Order {
  target: number;
  anchors: [number, Box][];
  from: number;
}

export interface Drawn {
  target: number;
  color: string;
  label: string;
  /** By frame. */
  tracks: Map<number, { box: Box; score: number; state: Status }>;
}

/** What the worker tells of its own accord. */
export type Event_ =
  | { kind: "download"; loaded: number; total: number }
  | { kind: "tracks"; frame: number; found: FoundTrack[]; preview?: ImageBitmap }
  | { kind: "written"; frame: number };

/** What the page asks for; each call is answered once. */
export interface Calls {
  load(root: string, model: string): { threads: number };
  open(file: Blob, name: string): import("./video").ClipInfo;
  picture(frame: number): ImageBitmap | null;
  track(orders: Order[], end: number): { frames: number; seconds: number; stopped: boolean };
  stop(): void;
  liveStart(picture: ImageBitmap, target: number, box: Box): FoundTrack;
  liveStep(picture: ImageBitmap): FoundTrack[];
  liveEnd(): void;
  annotate(drawn: Drawn[], first: number, last: number): { blob: Blob; extension: string } | null;
}

type Arguments<Name extends keyof Calls> = Parameters<Calls[Name]>;
export type Request_ = { [Name in keyof Calls]: { id: number; name: Name; args: Arguments<Name> } }[keyof Calls];
export type Reply = { id: number; value?: unknown; problem?: { name: string; message: string } };

/** The worker as seen from the page. */
export class Remote {
  #next = 0;
  #waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();

  constructor(
    private readonly worker: Worker,
    onEvent: (event: Event_) => void,
  ) {
    worker.onmessage = ({ data }: MessageEvent<Reply | Event_>) => {
      if ("kind" in data) return onEvent(data);
      const waiting = this.#waiting.get(data.id)!;
      this.#waiting.delete(data.id);
      if (!data.problem) return waiting.resolve(data.value as never);
      waiting.reject(Object.assign(new Error(data.problem.message), { name: data.problem.name }));
    };
  }

  call<Name extends keyof Calls>(
    name: Name,
    args: Arguments<Name>,
    transfer: Transferable[] = [],
  ): Promise<ReturnType<Calls[Name]>> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, args }, transfer);
    });
  }
}
