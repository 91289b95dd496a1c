/** The tracking loop, as in Python's `tracker.py`: state in, state and track out. The network is behind an engine. */

import { type Calibration, calibrate } from "./calibration";
import { type Box, clamp, clipBox, Crop, type Frame, iou } from "./geometry";
import {
  GROWING,
  isCut,
  isPlain,
  isPlausible,
  isSeeking,
  limited,
  type Recovery,
  scaleBox,
  seek,
  type Status,
  sureAt,
  thumbnail,
} from "./recovery";
import { encoded, type KVCache, prune, select, type Template, TemplateMemory } from "./templates";
import { type Decoded, decode, encode, NO_TRAJECTORY } from "./vocabulary";

export interface ModelConfig {
  patch: number;
  template_size: number;
  search_size: number;
  template_factor: number;
  search_factor: number;
  templates: number;
  identities: number;
  trajectory: number;
}

/** What the tracker needs of a network; see `engine.ts`. */
export interface Engine {
  config: ModelConfig;
  /** A template crop, its identity, and the target's corners in it → its cached keys and values. */
  encodeTemplate(crop: Uint8Array, identity: number, box: Box): Promise<KVCache>;
  /** Logits (4, BINS) of a search crop of `side` × `side`. */
  search(crop: Uint8Array, side: number, trajectory: readonly number[], kvCache: KVCache): Promise<Float32Array>;
  /** The same, and the attention that each template token receives. */
  searchScored(
    crop: Uint8Array,
    side: number,
    trajectory: readonly number[],
    kvCache: KVCache,
  ): Promise<{ logits: Float32Array; scores: Float32Array }>;
}

/** See Python's `TrackerSettings`, which documents each; a model's `model.json` overrides these. */
export const DEFAULTS = {
  templates: 5,
  interval: 20,
  template_score: 0.5,
  agreement: 0,
  hold_score: 0.1,
  lost_score: 0,
  likeness: 0.5,
  patience: 3,
  found_score: 0.6,
  size_step: 0.2,
  capacity: 16,
  retention: 1,
  min_window: 1,
  confident_score: 0.6,
};
export type Settings = typeof DEFAULTS;

export interface Track {
  box: Box;
  score: number;
  state: Status;
}

export interface State {
  /** Frames since the first, which is 0. */
  frame: number;
  size: readonly [number, number];
  /** The last boxes, oldest first. */
  trajectory: readonly Box[];
  memory: TemplateMemory;
  recovery: Recovery;
  /** Of the last frame; null without recovery, which alone asks for it. */
  thumbnail: Float64Array | null;
  /** Of the last frame, raw. */
  score: number;
}

interface SearchRegion {
  frame: Frame;
  size: readonly [number, number];
  trajectory: readonly Box[];
  recovery: Recovery;
  thumbnail: Float64Array | null;
  window: Crop;
  crop: Uint8Array;
  side: number;
  tokens: readonly number[];
}

/** Boxes are kept on a grid of this many pixels, so that engines and machines do not drift apart. */
const GRID = 0.125;
const HALF = 0.5 + 1e-4;
const MARGIN = 0.06;
const UNIT = new Crop(0, 0, 1);

export class Tracker {
  readonly settings: Settings;

  constructor(
    readonly engine: Engine,
    settings: Partial<Settings> = {},
    readonly calibration: Calibration | null = null,
  ) {
    this.settings = { ...DEFAULTS, ...settings };
    this.settings.templates = Math.min(this.settings.templates, engine.config.templates);
  }

  /** The state after the first frame, on which the box was drawn. */
  async start(frame: Frame, box: Box): Promise<State> {
    const memory = new TemplateMemory(this.settings.templates, this.settings.capacity, [
      await this.#takeTemplate(frame, box, 0, 0),
    ]);
    const trajectory = repeat(box, Math.max(this.engine.config.trajectory, 1));
    return {
      frame: 0,
      size: [frame.width, frame.height],
      trajectory,
      memory,
      recovery: sureAt(box),
      thumbnail: this.thumbnail(frame),
      score: 1,
    };
  }

  /** The state after the next frame, and the target's track on it. */
  async step(state: State, frame: Frame, small = this.thumbnail(frame)): Promise<{ state: State; track: Track }> {
    let memory = await this.#reencode(state.memory);
    const { kvCache } = memory;
    const undecided = this.#undecided(memory);
    let best: { region: SearchRegion; decoded: Decoded } | null = null;
    for (const region of this.#searchRegions(state, frame, small)) {
      let logits: Float32Array;
      if (undecided) {
        const found = await this.engine.searchScored(region.crop, region.side, region.tokens, kvCache);
        logits = found.logits;
        memory = this.#prune(memory, found.scores);
      } else {
        logits = await this.engine.search(region.crop, region.side, region.tokens, kvCache);
      }
      const decoded = decode(logits);
      if (!best || decoded.score > best.decoded.score) best = { region, decoded };
    }
    return this.#conclude(state, memory, best!.region, best!.decoded);
  }

  /** A thumbnail of a frame, by which cuts are told; null without recovery, which alone asks for it. */
  thumbnail(frame: Frame): Float64Array | null {
    return this.settings.lost_score > 0 ? thumbnail(frame) : null;
  }

  /** What the network is to be shown of the frame after `state`: one region, or two for a lost target. */
  #searchRegions(state: State, frame: Frame, thumbnail: Float64Array | null): SearchRegion[] {
    const { config } = this.engine;
    const size = [frame.width, frame.height] as const;
    let { trajectory, recovery } = state;
    if (size[0] !== state.size[0] || size[1] !== state.size[1]) {
      trajectory = trajectory.map((box) => scaleBox(box, state.size, size));
      recovery = { ...recovery, sure: scaleBox(recovery.sure, state.size, size) };
    }
    const known = { frame, size, trajectory, recovery, thumbnail };
    if (isSeeking(recovery)) {
      const side = config.search_size;
      const tokens = Array<number>(4 * config.trajectory).fill(NO_TRAJECTORY);
      const windows = seek(recovery.sure, size, config.search_factor, recovery.turn);
      return windows.map((window) => ({ ...known, window, crop: window.extract(frame, side), side, tokens }));
    }
    const window = Crop.around(trajectory[trajectory.length - 1], config.search_factor);
    const corners = trajectory.map((box) => window.toCrop(box));
    const tokens = corners.slice(corners.length - config.trajectory).flatMap((four) => four.map(encode));
    const side = this.#side(corners, state) * config.patch;
    const crop = window.center(side / config.search_size).extract(frame, side);
    return [{ ...known, window, crop, side, tokens }];
  }

  /** Whether it is time for a template on the frame after `state`. */
  #due(state: State): boolean {
    const { history } = state.memory;
    const newest = history[history.length - 1].frame;
    return this.settings.templates > 1 && state.frame + 1 - newest >= this.settings.interval;
  }

  /** How many tokens a side of the search window's center are cropped: enough for the target to move on. */
  #side(corners: readonly Box[], state: State): number {
    const { search_size, patch } = this.engine.config;
    const { settings } = this;
    const grid = search_size / patch;
    const checked = settings.agreement > 0 && this.#due(state);
    if (settings.min_window === 1 || state.score < settings.confident_score || checked) return grid;
    let speed = 0;
    for (let i = 1; i < corners.length; i++) {
      for (const axis of [0, 1]) {
        const center = (four: Box) => (four[axis] + four[axis + 2]) / 2;
        speed = Math.max(speed, Math.abs(center(corners[i]) - center(corners[i - 1])));
      }
    }
    const [x0, y0, x1, y1] = corners[corners.length - 1];
    const radius = Math.max(x1 - x0, y1 - y0) / 2 + 2 * speed + MARGIN;
    const missing = Math.trunc(((1 - Math.max(2 * radius, settings.min_window)) * grid) / 2);
    return grid - 2 * Math.max(missing, 0);
  }

  /** What was found in a search region means: the box, the track, and whether a template is taken. */
  async #conclude(state: State, memory: TemplateMemory, region: SearchRegion, { corners, score }: Decoded) {
    const { settings } = this;
    const before = region.recovery;
    const number = state.frame + 1;
    const recovers = settings.lost_score > 0;
    const checked = memory.history.length > 1;
    const plain = recovers && isPlain(region.crop, region.side);
    if (plain) score = 0;
    const timely = before.status !== "lost" && this.#due(state);
    let due = timely && score >= settings.template_score;
    if (isSeeking(before)) {
      if (score >= settings.found_score && checked) {
        const alone = await this.#firstTemplate(memory, region);
        if (alone.score < settings.template_score || overlap(alone.corners, corners) < 0.5) score = 0;
      }
    } else if (due && settings.agreement > 0 && checked) {
      const alone = await this.#firstTemplate(memory, region);
      if (overlap(alone.corners, corners) < settings.agreement) {
        due = false;
        if (alone.score >= settings.template_score) ({ corners, score } = alone);
      }
    }

    let { box, rate } = this.#box(region, corners, before, score);
    const cut = recovers && isCut(state.thumbnail!, region.thumbnail!);
    const doubted = recovers && (timely || cut || before.status !== "tracking");
    const least = isSeeking(before) ? settings.found_score : settings.lost_score;
    let template: Template | null = null;
    if (due || (doubted && score >= least)) {
      const identity = Math.min(1, this.engine.config.identities - 1);
      template = await this.#takeTemplate(region.frame, box, number, identity);
      if (recovers && memory.likeness(template) < settings.likeness) score = 0;
    }

    const turn = before.turn + (isSeeking(before) && !plain ? 1 : 0);
    let recovery: Recovery = { ...before, doubtful: before.doubtful + 1, turn, found: false };
    let { trajectory } = region;
    if (isSeeking(before)) {
      if (score >= settings.found_score && isPlausible(before, box)) {
        recovery = { ...recovery, found: true };
        trajectory = repeat(box, trajectory.length);
      }
    } else {
      if (score < settings.hold_score) [box, rate] = [trajectory[trajectory.length - 1], before.rate];
      recovery = { ...recovery, rate };
      trajectory = [...trajectory.slice(1), box];
      if (score >= settings.lost_score) {
        recovery = sureAt(box, rate);
      } else if (recovery.doubtful < settings.patience && before.status !== "lost" && !cut) {
        recovery = { ...recovery, status: "uncertain" };
      } else {
        if (before.status !== "lost") memory = memory.before(number - recovery.doubtful - settings.interval);
        recovery = { ...recovery, status: "lost", turn: cut ? GROWING : before.turn };
        trajectory = repeat(recovery.sure, trajectory.length);
      }
    }
    if (due && template && recovery.status === "tracking") memory = memory.add(template);
    const { size } = region;
    const after: State = { frame: number, size, trajectory, memory, recovery, thumbnail: region.thumbnail, score };
    const lost = recovery.status === "lost";
    const shown = lost ? 0 : this.calibration ? calibrate(this.calibration, score) : score;
    const place = clipBox(lost ? recovery.sure : trajectory[trajectory.length - 1], ...size);
    return { state: after, track: { box: place, score: shown, state: recovery.status } };
  }

  async #firstTemplate(memory: TemplateMemory, region: SearchRegion) {
    return decode(await this.engine.search(region.crop, region.side, region.tokens, memory.history[0].kvCache));
  }

  /** The image box of corners, its center within the frame, and how fast its sides usually change. */
  #box(region: SearchRegion, corners: Box, recovery: Recovery, score: number) {
    const low = [0, 1].map((i) => Math.min(corners[i], corners[i + 2]));
    const high = [0, 1].map((i) => Math.max(corners[i], corners[i + 2]));
    const [x, y, w, h] = region.window.toImage([low[0], low[1], high[0], high[1]]);
    let sides: readonly [number, number] = [Math.max(w, 1), Math.max(h, 1)];
    let { rate } = recovery;
    if (this.settings.lost_score > 0 && !isSeeking(recovery)) {
      const last = region.trajectory[region.trajectory.length - 1];
      if (score >= this.settings.lost_score) {
        ({ sides, rate } = limited(recovery, last, sides, this.settings.size_step));
      } else {
        sides = [last[2], last[3]];
      }
    }
    const [width, height] = sides.map((side, i) => clamp(side, 1, region.size[i]));
    const centerX = clamp(x + w / 2, 0, region.size[0]);
    const centerY = clamp(y + h / 2, 0, region.size[1]);
    const four = [centerX - width / 2, centerY - height / 2, width, height];
    const box = four.map((v) => Math.floor(v / GRID + HALF) * GRID) as unknown as Box;
    return { box, rate };
  }

  /** Every chosen template encoded with the identity of the slot that it now has. */
  async #reencode(memory: TemplateMemory): Promise<TemplateMemory> {
    for (const [slot, place] of memory.chosen.entries()) {
      const template = memory.history[place];
      const identity = Math.min(slot, this.engine.config.identities - 1);
      if (template.identity === identity) continue;
      let kvCache = await this.engine.encodeTemplate(template.crop, identity, template.box);
      if (template.keep && template.kvCache.tokens !== kvCache.tokens) kvCache = select(kvCache, template.keep);
      memory = memory.replace(place, { ...template, identity, kvCache });
    }
    return memory;
  }

  #undecided(memory: TemplateMemory): boolean {
    return this.settings.retention < 1 && memory.chosen.some((place) => memory.history[place].keep === null);
  }

  #prune(memory: TemplateMemory, scores: Float32Array): TemplateMemory {
    let end = 0;
    for (const place of memory.chosen) {
      const template = memory.history[place];
      const own = scores.subarray(end, (end += template.kvCache.tokens));
      if (template.keep === null) memory = memory.replace(place, prune(template, own, this.settings.retention));
    }
    return memory;
  }

  async #takeTemplate(frame: Frame, box: Box, number: number, identity: number): Promise<Template> {
    const { template_factor, template_size } = this.engine.config;
    const window = Crop.template(box, template_factor);
    const crop = window.extract(frame, template_size);
    const corners = window.toCrop(box).map((v) => clamp(v, 0, 1)) as unknown as Box;
    const kvCache = await this.engine.encodeTemplate(crop, identity, corners);
    return encoded(number, crop, corners, identity, kvCache);
  }
}

function overlap(first: Box, second: Box): number {
  return iou(UNIT.toImage(first), UNIT.toImage(second));
}

function repeat(box: Box, count: number): Box[] {
  return Array<Box>(count).fill(box);
}
