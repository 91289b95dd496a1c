/** The tracking loop, as in Python's `tracker.py`: state in, state and track out. The network is behind an engine. */

import { type Calibration, calibrate } from "./calibration";
import { sceneOf, shows } from "./distractors";
import { type Box, clamp, clipBox, Crop, type Frame, iou } from "./geometry";
import {
  followedAt,
  GROWING,
  isCut,
  isDue,
  isPlain,
  isPlausible,
  isSeeking,
  JUMP,
  limited,
  type Recovery,
  scaleBox,
  scaled,
  seek,
  type Status,
  sureAt,
  thumbnail,
  told,
  type Watch,
} from "./recovery";
import { center, encoded, finished, type KVCache, likeness, prune, select, type Template, TemplateMemory } from "./templates";
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

/** Width and height. */
export type Size = readonly [number, number];

/** What the tracker needs of a network; see `engine.ts`. */
export interface Engine {
  config: ModelConfig;
  /**
   * A template crop, its identity, and the target's corners in it → the cached keys and values of the first layers, and
   * the tokens from which `finishTemplate` goes on; null if these were all.
   */
  beginTemplate(crop: Uint8Array, identity: number, box: Box): Promise<{ kvCache: KVCache; rest: KVCache | null }>;
  /** The keys and values of the other layers. */
  finishTemplate(rest: KVCache): Promise<KVCache>;
  /** Logits (4, BINS) of a search crop of width × height. */
  search(crop: Uint8Array, size: Size, trajectory: readonly number[], kvCache: KVCache): Promise<Float32Array>;
  /** The same, and the attention that each template token receives. */
  searchScored(
    crop: Uint8Array,
    size: Size,
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
  min_template: 1,
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
  /** Whether the first template agreed on the last frame, so that the next may give one; null if it was not asked. */
  agreed: boolean | null;
  /** The state that the last frame's track told. */
  told: Status;
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
  /** Of the crop's center that the network is shown; one of them is `side`. */
  shown: Size;
  /** What all templates are shown, if they are, where the first is asked alone before; else null. */
  usual: Size | null;
}

/** What the network predicts for a frame; see Python's `Prediction`. */
interface Prediction {
  corners: Box;
  score: number;
  plain: boolean;
  agreed: boolean | null;
  timely: boolean;
  due: boolean;
}

type Found = { region: SearchRegion; decoded: Decoded; memory: TemplateMemory };

/** Boxes are kept on a grid of this many pixels, so that engines and machines do not drift apart. */
const GRID = 0.125;
const HALF = 0.5 + 1e-4;
/** Share of the search window's side, at least, that the first template is asked about alone, until it disagrees. */
const CHECKED = 0.7;
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

  /** Whether a loss is noticed, and a lost target sought. */
  get #recovers(): boolean {
    return this.settings.lost_score > 0;
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
      recovery: sureAt(box, this.#recovers ? sceneOf(frame, box) : null),
      thumbnail: this.thumbnail(frame),
      score: 1,
      agreed: null,
      told: "tracking",
    };
  }

  /** The state after the next frame, and the target's track on it. */
  async step(state: State, frame: Frame, small = this.thumbnail(frame)): Promise<{ state: State; track: Track }> {
    const memory = await this.#prepared(state.memory);
    const found = await this.#find(memory, this.#searchRegions(state, frame, small));
    if (!found.region.usual || this.#confirms(found)) {
      return this.#conclude(state, found, found.region.usual ? found.decoded : null);
    }
    return this.#conclude(state, await this.#find(memory, [forAll(found.region)]), found.decoded);
  }

  /** Of regions that with the best score, and the memory, pruned if that was undecided. */
  async #find(memory: TemplateMemory, regions: readonly SearchRegion[]): Promise<Found> {
    const { kvCache } = memory;
    const undecided = this.#undecided(memory);
    let best: { region: SearchRegion; decoded: Decoded } | null = null;
    for (const region of regions) {
      let logits: Float32Array;
      if (region.usual) {
        logits = await this.#askFirst(memory, region);
      } else if (undecided) {
        const found = await this.engine.searchScored(pixels(region), region.shown, region.tokens, kvCache);
        logits = found.logits;
        memory = this.#prune(memory, found.scores);
      } else {
        logits = await this.engine.search(pixels(region), region.shown, region.tokens, kvCache);
      }
      const decoded = decode(logits);
      if (!best || decoded.score > best.decoded.score) best = { region, decoded };
    }
    return { ...best!, memory };
  }

  #askFirst(memory: TemplateMemory, region: SearchRegion): Promise<Float32Array> {
    return this.engine.search(pixels(region), region.shown, region.tokens, memory.history[0].kvCache);
  }

  /** Whether the first template alone says for sure that the target is where it was. */
  #confirms({ region, decoded: { corners, score } }: Found): boolean {
    const { template_score, agreement } = this.settings;
    return score >= template_score && overlap(corners, lastBox(region)) >= agreement;
  }

  /** A thumbnail of a frame, by which cuts are told; null without recovery, which alone asks for it. */
  thumbnail(frame: Frame): Float64Array | null {
    return this.#recovers ? thumbnail(frame) : null;
  }

  /** What the network is to be shown of the frame after `state`: one region, or two for a lost target. */
  #searchRegions(state: State, frame: Frame, thumbnail: Float64Array | null): SearchRegion[] {
    const { config } = this.engine;
    const size = [frame.width, frame.height] as const;
    let { trajectory, recovery } = state;
    if (size[0] !== state.size[0] || size[1] !== state.size[1]) {
      trajectory = trajectory.map((box) => scaleBox(box, state.size, size));
      recovery = scaled(recovery, state.size, size);
    }
    const known = { frame, size, trajectory, recovery, thumbnail };
    if (isSeeking(recovery)) {
      const side = config.search_size;
      const tokens = Array<number>(4 * config.trajectory).fill(NO_TRAJECTORY);
      const windows = seek(recovery.sure, size, config.search_factor, recovery.turn);
      const whole = { side, shown: [side, side] as const, tokens, usual: null };
      return windows.map((window) => ({ ...known, ...whole, window, crop: window.extract(frame, side) }));
    }
    const window = Crop.around(lastOf(trajectory), config.search_factor);
    const corners = trajectory.map((box) => window.toCrop(box));
    const tokens = corners.slice(corners.length - config.trajectory).flatMap((four) => four.map(encode));
    const usual = this.#shown(corners, state.score);
    const checks = this.#checks(state);
    const wide = this.#least(state.agreed === null ? CHECKED : 1, config.search_size);
    const shown = checks ? ([Math.max(usual[0], wide), Math.max(usual[1], wide)] as const) : usual;
    const side = Math.max(...shown);
    const crop = window.center(side / config.search_size).extract(frame, side);
    return [{ ...known, window, crop, side, tokens, shown, usual: checks ? usual : null }];
  }

  /** Whether it is time for a template on the frame after `state`, or `ahead` frames later. */
  #due(state: State, ahead = 0): boolean {
    const { history } = state.memory;
    const newest = lastOf(history).frame;
    return this.settings.templates > 1 && state.frame + 1 + ahead - newest >= this.settings.interval;
  }

  /** Whether the first template is asked alone on the frame after `state`: the one before a template is due. */
  #checks(state: State): boolean {
    const sure = state.recovery.status === "tracking" && state.score >= this.settings.template_score;
    return this.#compares(state.memory) && sure && !state.agreed && this.#due(state, 1);
  }

  /** Whether what all templates find is compared with what the first alone finds. */
  #compares({ history }: TemplateMemory): boolean {
    return this.settings.agreement > 0 && history.length > 1;
  }

  /** The side of the center of a crop: at least this share of it, and as many whole tokens missing on either side. */
  #least(share: number, size: number): number {
    const { patch } = this.engine.config;
    return size - 2 * patch * Math.max(Math.trunc(((1 - share) * (size / patch)) / 2), 0);
  }

  /** The width and height of the search window's center that are shown: enough for the target to move on. */
  #shown(corners: readonly Box[], score: number): Size {
    const { min_window, confident_score } = this.settings;
    const { search_size, patch } = this.engine.config;
    const along = (axis: number) => {
      if (min_window === 1 || score < confident_score) return search_size;
      const centers = corners.map((four) => (four[axis] + four[axis + 2]) / 2);
      const speed = Math.max(0, ...centers.slice(1).map((center, i) => Math.abs(center - centers[i])));
      const last = lastOf(corners);
      const radius = (last[axis + 2] - last[axis]) / 2 + 2 * speed + MARGIN;
      return this.#least(Math.max(2 * radius, min_window), search_size);
    };
    const [width, height] = [along(0), along(1)];
    const least = Math.max(width, height) - 2 * patch;
    return [Math.max(width, least), Math.max(height, least)];
  }

  /** What was found means, and what the first template alone said: the box, the track, whether a template is taken. */
  async #conclude(state: State, { region, decoded, memory }: Found, alone: Decoded | null) {
    const { recovery: before, size, trajectory, thumbnail } = region;
    const frame = state.frame + 1;
    const prediction = await this.#prediction(state, { region, decoded, memory }, alone);
    const { box, rate } = this.#box(region, prediction.corners, before, prediction.score);
    const cut = this.#recovers && isCut(state.thumbnail!, thumbnail!);
    const { score, template } = await this.#doubted(prediction, region, memory, box, frame, cut);
    const known = { frame, size, trajectory, memory, recovery: before, thumbnail };
    let after: State = { ...known, score, agreed: prediction.agreed, told: state.told };
    after = isSeeking(before) ? this.#sought(after, box, prediction.plain) : this.#followed(after, box, rate, cut);
    if (template && after.recovery.status === "tracking") {
      const scene = this.#recovers ? sceneOf(region.frame, lastOf(after.trajectory)) : null;
      after = { ...after, memory: after.memory.add(template), recovery: { ...after.recovery, scene } };
    }
    after = await this.#watched(after, region);
    const lost = after.recovery.status === "lost";
    const chance = lost ? 0 : this.calibration ? calibrate(this.calibration, score) : score;
    const status = this.#recovers ? told(lost, chance, state.told) : "tracking";
    const place = clipBox(lost ? after.recovery.sure : lastOf(after.trajectory), ...size);
    return { state: { ...after, told: status }, track: { box: place, score: chance, state: status } };
  }

  /** What the network predicts, after what the first template says of it. */
  async #prediction(state: State, { region, decoded, memory }: Found, alone: Decoded | null): Promise<Prediction> {
    const { settings } = this;
    const before = region.recovery;
    let { corners, score } = decoded;
    const part = region.window.center(region.side / this.engine.config.search_size);
    const plain = this.#recovers && isPlain(region.crop, region.side, part, region.size);
    if (plain) score = 0;
    const stayed = overlap(corners, lastBox(region)) >= settings.agreement;
    if (state.agreed && !stayed) alone = decode(await this.#askFirst(memory, region));
    let agreed = alone ? true : null;
    if (alone && !region.usual) {
      agreed = overlap(alone.corners, corners) >= settings.agreement;
      if (!agreed && alone.score >= settings.template_score && !plain) ({ corners, score } = alone);
    }
    const timely = before.status !== "lost" && this.#due(state) && !agreed;
    const trusted = !this.#compares(memory) || (!!state.agreed && stayed);
    const due = timely && score >= settings.template_score && trusted;
    if (isSeeking(before) && score >= settings.found_score && memory.history.length > 1) {
      const first = decode(await this.#askFirst(memory, region));
      if (first.score < settings.template_score || overlap(first.corners, corners) < 0.5) score = 0;
    }
    return { corners, score, plain, agreed, timely, due };
  }

  /** The score of the box, 0 if what it shows is not the target; and a template, if one is due. */
  async #doubted(
    prediction: Prediction,
    region: SearchRegion,
    memory: TemplateMemory,
    box: Box,
    frame: number,
    cut: boolean,
  ): Promise<{ score: number; template: Template | null }> {
    const { settings } = this;
    const before = region.recovery;
    const doubtful = this.#recovers && (prediction.timely || cut || before.status !== "tracking");
    const least = isSeeking(before) ? settings.found_score : settings.lost_score;
    let { score } = prediction;
    let template: Template | null = null;
    if (prediction.due || (doubtful && score >= least)) {
      const identity = Math.min(1, this.engine.config.identities - 1);
      template = await this.#takeTemplate(region.frame, box, frame, identity);
      if (this.#recovers && memory.likeness(template) < settings.likeness) score = 0;
    }
    if (this.#recovers && score >= least && takenOver(region, box)) score = 0;
    return { score, template: prediction.due ? template : null };
  }

  /** The state after a frame that was searched for a lost target. */
  #sought(after: State, box: Box, plain: boolean): State {
    const before = after.recovery;
    const found = after.score >= this.settings.found_score && isPlausible(before, box);
    const recovery = { ...before, doubtful: before.doubtful + 1, turn: before.turn + (plain ? 0 : 1), found };
    return { ...(found ? resting(after, box) : after), recovery };
  }

  /** The state after a frame on which the target was followed into a box; its sides usually change at this rate. */
  #followed(after: State, box: Box, rate: Recovery["rate"], cut: boolean): State {
    const { settings } = this;
    const { recovery: before, score, frame } = after;
    if (score < settings.hold_score) [box, rate] = [lastOf(after.trajectory), before.rate];
    after = { ...after, trajectory: [...after.trajectory.slice(1), box] };
    if (score >= settings.lost_score) return { ...after, recovery: followedAt(before, box, rate, frame) };
    const recovery: Recovery = { ...before, doubtful: before.doubtful + 1, found: false, rate };
    if (recovery.doubtful < settings.patience && before.status !== "lost" && !cut) {
      return { ...after, recovery: { ...recovery, status: "uncertain" } };
    }
    const memory =
      before.status === "lost" ? after.memory : after.memory.before(frame - recovery.doubtful - settings.interval);
    const turn = cut ? GROWING : before.turn;
    return { ...resting(after, recovery.sure), memory, recovery: { ...recovery, status: "lost", turn } };
  }

  /** The state once the place where the target was lost has been looked at, if that is due on this frame. */
  async #watched(after: State, region: SearchRegion): Promise<State> {
    const { watch, status } = after.recovery;
    if (!watch || !isDue(watch, after.frame) || status !== "tracking") return after;
    const there = await this.#returned(after.memory, region, watch, after.frame);
    if (!there) return after;
    const overlapping = iou(there, lastOf(after.trajectory));
    if (overlapping >= 0.5) return { ...after, recovery: { ...after.recovery, watch: null } };
    if (overlapping >= JUMP) return after;
    const recovery: Recovery = { ...sureAt(there, null, region.recovery.rate), status: "lost", found: true };
    return { ...resting(after, there), memory: after.memory.before(watch.since), recovery };
  }

  /** The image box of what is again where the target was lost, if the first template alone is sure that it is the target. */
  async #returned(memory: TemplateMemory, region: SearchRegion, watch: Watch, number: number): Promise<Box | null> {
    const { config } = this.engine;
    const lost: Recovery = { ...sureAt(watch.place, null), status: "lost" };
    const window = Crop.around(watch.place, config.search_factor);
    const side = config.search_size;
    const tokens = region.tokens.map(() => NO_TRAJECTORY);
    const shown = { ...region, window, side, shown: [side, side] as const, crop: window.extract(region.frame, side), tokens };
    const { corners, score } = decode(await this.#askFirst(memory, shown));
    const { box } = this.#box(shown, corners, lost, score);
    if (score < this.settings.found_score || !isPlausible(lost, box)) return null;
    const template = await this.#takeTemplate(region.frame, box, number, Math.min(1, config.identities - 1));
    return likeness(memory.history[0], template) >= this.settings.likeness ? box : null;
  }

  /** The image box of corners, its center within the frame, and how fast its sides usually change. */
  #box(region: SearchRegion, corners: Box, recovery: Recovery, score: number) {
    const low = [0, 1].map((i) => Math.min(corners[i], corners[i + 2]));
    const high = [0, 1].map((i) => Math.max(corners[i], corners[i + 2]));
    const [x, y, w, h] = region.window.toImage([low[0], low[1], high[0], high[1]]);
    let sides: readonly [number, number] = [Math.max(w, 1), Math.max(h, 1)];
    let { rate } = recovery;
    if (this.#recovers && !isSeeking(recovery)) {
      const last = lastOf(region.trajectory);
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

  /** Every chosen template encoded to the end, with the identity of the slot that it now has. */
  async #prepared(memory: TemplateMemory): Promise<TemplateMemory> {
    for (const [slot, place] of memory.chosen.entries()) {
      const template = memory.history[place];
      const identity = Math.min(slot, this.engine.config.identities - 1);
      if (template.identity !== identity) {
        let { kvCache } = await this.engine.beginTemplate(template.crop, identity, template.box);
        if (template.keep) kvCache = select(kvCache, template.keep);
        memory = memory.replace(place, { ...template, identity, kvCache });
      } else if (template.rest) {
        memory = memory.replace(place, finished(template, await this.engine.finishTemplate(template.rest)));
      }
    }
    return memory;
  }

  #undecided(memory: TemplateMemory): boolean {
    return this.settings.retention < 1 && memory.chosen.some((place) => !memory.history[place].pruned);
  }

  #prune(memory: TemplateMemory, scores: Float32Array): TemplateMemory {
    let end = 0;
    for (const place of memory.chosen) {
      const template = memory.history[place];
      const own = scores.subarray(end, (end += template.kvCache.tokens));
      if (!template.pruned) memory = memory.replace(place, prune(template, own, this.settings.retention));
    }
    return memory;
  }

  /** A template of the target in an image box of a frame; of one after the first, the center if that will do. */
  async #takeTemplate(frame: Frame, box: Box, number: number, identity: number): Promise<Template> {
    const { template_factor, template_size, patch } = this.engine.config;
    const window = Crop.template(box, template_factor);
    const crop = window.extract(frame, template_size);
    const corners = window.toCrop(box).map((v) => clamp(v, 0, 1)) as unknown as Box;
    const { kvCache, rest } = await this.engine.beginTemplate(crop, identity, corners);
    const template = encoded(number, crop, corners, identity, kvCache, rest);
    const share = Math.max(number > 0 ? this.settings.min_template : 1, box[2] / window.side, box[3] / window.side);
    return center(template, this.#least(share, template_size) / patch);
  }
}

/** Of a region that the first template was asked about, what all are asked about. */
function forAll(region: SearchRegion): SearchRegion {
  const shown = region.usual ?? region.shown;
  const side = Math.max(...shown);
  return { ...region, crop: centerOf(region.crop, region.side, [side, side]), side, shown, usual: null };
}

/** What the network is shown of a region. */
function pixels({ crop, side, shown }: SearchRegion): Uint8Array {
  return centerOf(crop, side, shown);
}

/** The center of a square crop. */
function centerOf(crop: Uint8Array, side: number, [width, height]: Size): Uint8Array {
  if (width === side && height === side) return crop;
  const [left, top] = [(side - width) / 2, (side - height) / 2];
  const center = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const from = ((row + top) * side + left) * 3;
    center.set(crop.subarray(from, from + width * 3), row * width * 3);
  }
  return center;
}

/** The last box's corners in a region's window. */
function lastBox({ window, trajectory }: SearchRegion): Box {
  return window.toCrop(lastOf(trajectory));
}

function overlap(first: Box, second: Box): number {
  return iou(UNIT.toImage(first), UNIT.toImage(second));
}

/** Whether a box has jumped to what was beside the target before. */
function takenOver({ frame, recovery }: SearchRegion, box: Box): boolean {
  const { scene, sure } = recovery;
  return scene !== null && iou(sure, box) < JUMP && shows(scene, sceneOf(frame, box, scene.step));
}

function lastOf<T>(values: readonly T[]): T {
  return values[values.length - 1];
}

function repeat(box: Box, count: number): Box[] {
  return Array<Box>(count).fill(box);
}

/** The state of a target that was at rest in a box so far. */
function resting(state: State, box: Box): State {
  return { ...state, trajectory: repeat(box, state.trajectory.length) };
}
