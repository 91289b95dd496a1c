/** All heavy work: decoding, cropping, the network, writing video. The page only asks and shows. */

import { BufferTarget, CanvasSource, getFirstEncodableVideoCodec, Mp4OutputFormat, Output, QUALITY_HIGH, WebMOutputFormat } from "mediabunny";
import { drawTrack } from "./draw";
import { OnnxEngine, threads } from "./engine";
import { Problem } from "./errors";
import { place, RgbFrame } from "./frames";
import { type Box, checkBox, type Frame } from "./geometry";
import type { Calls, Drawn, Event_, FoundTrack, MemoryView, Order, Reply, Request_ } from "./messages";
import { stepAll } from "./multi";
import { openPackage } from "./packages";
import { bitmap, Player } from "./player";
import type { TemplateMemory } from "./templates";
import { type State, type Track, Tracker } from "./tracker";
import { Clip } from "./video";

const PREVIEW_EVERY = 60; // milliseconds
const scope = globalThis as unknown as DedicatedWorkerGlobalScope;

let tracker: Promise<Tracker> | null = null;
let clip: Clip | null = null;
let player: Player | null = null;
let stopping = false;
/** Where each target was left, so that tracking goes on as if it had not been stopped. */
const states = new Map<number, { frame: number; state: State }>();
const live = new Map<number, State>();

function tell(event: Event_, transfer: Transferable[] = []): void {
  scope.postMessage(event, transfer);
}

type Handlers = { [Name in keyof Calls]: (...args: Parameters<Calls[Name]>) => Promise<ReturnType<Calls[Name]>> };

const handlers: Handlers = {
  async load(root, name) {
    const opening = openPackage(root, name, (loaded, total) => tell({ kind: "download", loaded, total }));
    const ready = opening.then(
      async (model) => new Tracker(await OnnxEngine.open(model), model.settings, model.calibration),
    );
    tracker = ready;
    states.clear();
    live.clear();
    await ready;
    return { threads: threads() };
  },

  async open(file, name) {
    const opened = await Clip.open(file, name);
    await player?.close();
    clip?.close();
    clip = opened;
    player = new Player(clip);
    states.clear();
    live.clear();
    return opened.info;
  },

  async picture(frame) {
    opened();
    return player!.picture(frame);
  },

  async track(orders, end) {
    return trackClip(await ready(), opened(), orders, end);
  },

  async stop() {
    stopping = true;
  },

  async liveStart(picture, target, box) {
    const state = await begin(await ready(), bitmapFrame(picture), box);
    live.set(target, state);
    return { target, box, score: 1, state: "tracking", memory: memoryView(state.memory, null) };
  },

  async liveStep(picture) {
    const frame = bitmapFrame(picture);
    const before = [...live];
    const found = await stepAll(await ready(), before.map(([, state]) => state), frame);
    return found.map(({ state, track }, i) => {
      const target = before[i][0];
      live.set(target, state);
      return { target, ...track, memory: memoryView(state.memory, before[i][1].memory) };
    });
  },

  async liveEnd() {
    live.clear();
  },

  async annotate(drawn, first, last) {
    return annotate(opened(), drawn, first, last);
  },
};

function opened(): Clip {
  if (!clip) throw new Problem("Open a clip first.");
  return clip;
}

function ready(): Promise<Tracker> {
  if (!tracker) throw new Problem("The model is not loaded yet.");
  return tracker;
}

async function begin(tracker: Tracker, frame: Frame, box: Box): Promise<State> {
  const wrong = checkBox(box, frame.width, frame.height);
  if (wrong) throw new Problem(wrong);
  return tracker.start(frame, box);
}

async function trackClip(tracker: Tracker, clip: Clip, orders: Order[], end: number) {
  stopping = false;
  const anchors = new Map(orders.map(({ target, anchors }) => [target, new Map(anchors)]));
  const running = new Map<number, State>();
  const begins = new Map<number, number>();
  for (const { target, from } of orders) {
    const drawn = [...anchors.get(target)!.keys()].filter((frame) => frame <= from);
    const left = states.get(target);
    const goesOn = left?.frame === from - 1 && !drawn.includes(from);
    if (goesOn) running.set(target, left.state);
    begins.set(target, goesOn ? from : Math.max(...drawn)); // where the model was changed, anew from the last box
  }
  const begun = performance.now();
  let shown = 0;
  let frames = 0;
  for await (const { index, sample } of clip.samples(Math.min(...begins.values()))) {
    try {
      if (stopping || index > end) break;
      const frame = await clip.pixels(sample);
      const found: FoundTrack[] = [];
      const going: [number, State][] = [];
      for (const [target, from] of begins) {
        if (index < from) continue;
        const box = anchors.get(target)!.get(index);
        const state = running.get(target);
        if (box) {
          const state = await begin(tracker, frame, box);
          remember(target, index, state);
          found.push({ target, box, score: 1, state: "tracking", memory: memoryView(state.memory, null) });
        } else if (state) {
          going.push([target, state]);
        }
      }
      const after = await stepAll(tracker, going.map(([, state]) => state), frame);
      after.forEach(({ state, track }, i) => {
        const [target, before] = going[i];
        remember(target, index, state);
        found.push({ target, ...track, memory: memoryView(state.memory, before.memory) });
      });
      frames++;
      const now = performance.now();
      let preview: ImageBitmap | undefined;
      if (now - shown > PREVIEW_EVERY) {
        shown = now;
        preview = bitmap(clip, sample);
      }
      tell({ kind: "tracks", frame: index, found, preview }, preview ? [preview] : []);
    } finally {
      sample.close();
    }
    await breath();
  }
  return { frames, seconds: (performance.now() - begun) / 1000, stopped: stopping };

  function remember(target: number, frame: number, state: State): void {
    running.set(target, state);
    states.set(target, { frame, state });
  }
}

/** Lets a message be heard, such as the one to stop. */
function breath(): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  return new Promise((resolve) => {
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** What the memory holds, where that differs from before. */
function memoryView(memory: TemplateMemory, before: TemplateMemory | null): MemoryView | undefined {
  if (before?.history === memory.history) return undefined;
  const frames = (of: TemplateMemory) => of.history.map(({ frame }) => frame);
  const newest = memory.history[memory.history.length - 1];
  const known = before && frames(before).includes(newest.frame);
  const side = Math.sqrt(newest.crop.length / 3);
  const pixels = new Uint8ClampedArray(side * side * 4).fill(255);
  if (!known) for (let i = 0; i < side * side; i++) pixels.set(newest.crop.subarray(3 * i, 3 * i + 3), 4 * i);
  return {
    used: memory.chosen.map((at) => memory.history[at].frame),
    held: frames(memory),
    taken: known ? undefined : { frame: newest.frame, side, pixels },
  };
}

function bitmapFrame(picture: ImageBitmap): Frame {
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.drawImage(picture, 0, 0);
  picture.close();
  const data = new Uint8Array(context.getImageData(0, 0, width, height).data.buffer);
  return new RgbFrame({ data, offset: 0, stride: width * 4, step: 4 }, place(width, height, 0, false));
}

/** The frames with boxes drawn on them, as H.264 in MP4 where the browser can write it, else as VP9 or VP8 in WebM. */
async function annotate(clip: Clip, drawn: Drawn[], first: number, last: number) {
  stopping = false;
  const { info } = clip;
  const [width, height] = [info.width + (info.width % 2), info.height + (info.height % 2)];
  const codec = await getFirstEncodableVideoCodec(["avc", "vp9", "vp8", "av1"], { width, height });
  if (!codec) throw new Problem("This browser cannot write video; download CSV or JSON, or use another browser.");
  const format = codec === "avc" ? new Mp4OutputFormat({ fastStart: "in-memory" }) : new WebMOutputFormat();
  const target = new BufferTarget();
  const output = new Output({ format, target });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d")!;
  const source = new CanvasSource(canvas, { codec, quality: QUALITY_HIGH });
  output.addVideoTrack(source);
  await output.start();
  for await (const { index, sample } of clip.samples(first)) {
    try {
      if (stopping || index > last) break;
      sample.draw(context, 0, 0, info.width, info.height);
      for (const { tracks, label, color } of drawn) {
        const track: Track | undefined = tracks.get(index);
        if (track) drawTrack(context, track, label, color);
      }
      const time = info.times[index] - info.times[first];
      await source.add(time, (info.times[index + 1] ?? info.times[index] + sample.duration) - info.times[index]);
      tell({ kind: "written", frame: index });
    } finally {
      sample.close();
    }
  }
  if (stopping) {
    await output.cancel();
    return null;
  }
  await output.finalize();
  return { blob: new Blob([target.buffer!], { type: format.mimeType }), extension: format.fileExtension };
}

scope.onmessage = async ({ data: { id, name, args } }: MessageEvent<Request_>) => {
  const reply: Reply = { id };
  try {
    reply.value = await (handlers[name] as (...args: unknown[]) => Promise<unknown>)(...args);
  } catch (error) {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    reply.problem = { name, message };
  }
  scope.postMessage(reply, reply.value instanceof ImageBitmap ? [reply.value] : []);
};
