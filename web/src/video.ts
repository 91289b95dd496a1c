/** Clips: which frames there are, any one of them, and all in order, exactly. */

import {
  ALL_FORMATS,
  BlobSource,
  EncodedPacketSink,
  Input,
  type InputVideoTrack,
  type VideoSample,
  VideoSampleSink,
} from "mediabunny";
import { type Colors, colorTables, type Tables } from "./color";
import { Problem } from "./errors";
import { type Plane, place, RgbFrame, YuvFrame } from "./frames";
import type { Frame } from "./geometry";

export interface ClipInfo {
  name: string;
  /** Upright, in pixels as they are stored. */
  width: number;
  height: number;
  /** Width to height of a pixel on the screen. */
  pixelAspect: readonly [number, number];
  /** Seconds after the first frame, one for each frame. */
  times: Float64Array;
  codec: string;
  /** Whether crops are the same, bit for bit, as Python's. */
  exact: boolean;
}

export interface Numbered {
  index: number;
  sample: VideoSample;
}

export class Clip {
  private constructor(
    readonly info: ClipInfo,
    private readonly sink: VideoSampleSink,
    private readonly stamps: Float64Array,
    private readonly tables: Tables,
    private readonly input: Input,
  ) {}

  static async open(file: Blob, name: string): Promise<Clip> {
    const input = new Input({ source: new BlobSource(file), formats: ALL_FORMATS });
    let track: InputVideoTrack | null;
    try {
      track = await input.getPrimaryVideoTrack();
    } catch {
      throw new Problem(`${name} is not a video that can be read here; MP4, MOV, WebM and Matroska can.`);
    }
    if (!track) throw new Problem(`${name} has no video track; choose another file.`);
    const codec = (await track.getCodec()) ?? "unknown";
    if (!(await track.canDecode())) throw new Problem(undecodable(name, codec));
    const stamps = await timestamps(track);
    if (!stamps.length) throw new Problem(`${name} holds no frame; record, download or copy it again.`);
    const sink = new VideoSampleSink(track);
    const colors = await clipColors(track);
    const first = await sink.getSample(stamps[0]).catch(() => null);
    if (!first) throw new Problem(undecodable(name, codec));
    const upright = place(first.visibleRect.width, first.visibleRect.height, first.rotation, first.flip);
    const { num, den } = first.pixelAspectRatio;
    const info: ClipInfo = {
      name,
      width: upright.width,
      height: upright.height,
      pixelAspect: first.rotation % 180 ? [den, num] : [num, den],
      times: stamps.map((stamp) => stamp - stamps[0]),
      codec,
      exact: (first.format === "I420" || first.format === "NV12") && first.visibleRect.height % 2 === 0,
    };
    first.close();
    return new Clip(info, sink, stamps, colorTables(colors), input);
  }

  /** The frames from `start` on, those that can be decoded; whoever asks closes them. */
  async *samples(start: number): AsyncGenerator<Numbered> {
    let index = start;
    for await (const sample of this.sink.samples(this.stamps[start])) {
      while (index + 1 < this.stamps.length && this.stamps[index + 1] <= sample.timestamp + 1e-6) index++;
      yield { index, sample };
    }
  }

  /** A sample's pixels, as the tracker takes them. */
  async pixels(sample: VideoSample): Promise<Frame> {
    return samplePixels(sample, this.tables);
  }

  close(): void {
    this.input.dispose();
  }
}

/** In the order of presentation, without those before the beginning that an edit list sets. */
async function timestamps(track: InputVideoTrack): Promise<Float64Array> {
  const stamps: number[] = [];
  for await (const packet of new EncodedPacketSink(track).packets(undefined, undefined, { metadataOnly: true })) {
    if (packet.timestamp >= -1e-6) stamps.push(packet.timestamp);
  }
  return Float64Array.from(stamps).sort();
}

/** From the container and the codec's own header: decoders guess for a file that says nothing. */
async function clipColors(track: InputVideoTrack): Promise<Colors> {
  const told = await track.getColorSpace();
  const matrices: Record<string, Colors["matrix"]> = { bt709: "bt709", "bt2020-ncl": "bt2020" };
  return { matrix: matrices[told.matrix ?? ""] ?? "bt601", fullRange: told.fullRange ?? false };
}

async function samplePixels(sample: VideoSample, tables: Tables): Promise<Frame> {
  const { width, height } = sample.visibleRect;
  const placement = place(width, height, sample.rotation, sample.flip);
  const planar = { I420: [1, 1], NV12: [1, 1], I422: [1, 0], I444: [0, 0] }[sample.format as string];
  if (!planar) {
    const data = new Uint8Array(width * height * 4);
    await sample.copyTo(data, { format: "RGBA", layout: [{ offset: 0, stride: width * 4 }] });
    return new RgbFrame({ data, offset: 0, stride: width * 4, step: 4 }, placement);
  }
  const data = new Uint8Array(sample.allocationSize());
  const layout = await sample.copyTo(data);
  const plane = (i: number, step = 1, shift = 0): Plane => ({
    data,
    offset: layout[i].offset + shift,
    stride: layout[i].stride,
    step,
  });
  const both = sample.format === "NV12";
  const planes = [plane(0), plane(1, both ? 2 : 1), both ? plane(1, 2, 1) : plane(2)] as const;
  return new YuvFrame(planes, [planar[0], planar[1]], tables, placement);
}

function undecodable(name: string, codec: string): string {
  const known: Record<string, string> = { hevc: "HEVC (H.265)", avc: "H.264", av1: "AV1", vp9: "VP9", prores: "ProRes" };
  const kind = known[codec] ?? codec;
  return `${name} is ${kind} video, which this browser cannot decode; convert it to H.264 (ffmpeg -i in.mov -c:v libx264 out.mp4) or use another browser.`;
}
