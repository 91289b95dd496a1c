/** The template memory, as in Python's `templates.py`: bounded however long the video is. Immutable values. */

import type { Box } from "./geometry";

/** Cached keys and values of template tokens, (lead, tokens, channels); those of several templates join along tokens. */
export interface KVCache {
  data: Float32Array;
  shape: readonly number[];
  tokens: number;
}

export interface Template {
  frame: number;
  crop: Uint8Array;
  /** The target's corners in the crop's frame, within [0, 1]. */
  box: Box;
  identity: number;
  kvCache: KVCache;
  /** What it looks like in the box, and around it; of length 1. */
  target: Float32Array;
  context: Float32Array;
  /** Tokens kept; null for all. */
  keep: readonly number[] | null;
  /** Whether the best tokens were chosen, once, on the frame after this one. */
  pruned: boolean;
  /** The tokens from which the last layers go on, on the frame after this one; null once `kvCache` is whole. */
  rest: KVCache | null;
}

/** What of a template's cache is compared: the values of the third layer. */
const LIKENESS_LAYER = 5;

/** A template with the cache of all tokens of its crop. */
export function encoded(
  frame: number,
  crop: Uint8Array,
  box: Box,
  identity: number,
  kvCache: KVCache,
  rest: KVCache | null,
): Template {
  return { frame, crop, box, identity, kvCache, ...appearance(kvCache, box), keep: null, pruned: false, rest };
}

/** With the cache of the last layers too. */
export function finished(template: Template, { data, shape }: KVCache): Template {
  const { kvCache } = template;
  const whole = new Float32Array(kvCache.data.length + data.length);
  whole.set(kvCache.data);
  whole.set(data, kvCache.data.length);
  const layers = [kvCache.shape[0] + shape[0], ...shape.slice(1)];
  return { ...template, kvCache: { ...kvCache, data: whole, shape: layers }, rest: null };
}

/** Mean features of a whole template's tokens in its target's box and around it; the cache is (layers, heads, tokens, channels). */
export function appearance({ data, shape, tokens }: KVCache, box: Box): { target: Float32Array; context: Float32Array } {
  const [layers, heads, , channels] = shape;
  const first = Math.min(LIKENESS_LAYER, layers - 1) * heads * tokens * channels;
  const side = Math.round(Math.sqrt(tokens));
  const [x0, y0, x1, y1] = box.map(Math.fround);
  const covered = (low: number, high: number, at: number) =>
    Math.max(Math.min(high, (at + 1) / side) - Math.max(low, at / side), 0) * side;
  const [target, context] = [new Float64Array(heads * channels), new Float64Array(heads * channels)];
  for (let token = 0; token < tokens; token++) {
    const share = covered(y0, y1, Math.floor(token / side)) * covered(x0, x1, token % side);
    for (let head = 0; head < heads; head++) {
      for (let channel = 0; channel < channels; channel++) {
        const value = data[first + (head * tokens + token) * channels + channel];
        target[head * channels + channel] += share * value;
        context[head * channels + channel] += (1 - share) * value;
      }
    }
  }
  return { target: unit(target), context: unit(context) };
}

function unit(vector: Float64Array): Float32Array {
  const length = Math.max(Math.hypot(...vector), 1e-9);
  return Float32Array.from(vector, (value) => value / length);
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i], 0);
}

/** How much another template's target looks like this one's: 1 if the same, 0 or less if rather like the context. */
export function likeness(one: Template, other: Template): number {
  const contrast = dot(one.target, other.target) - dot(one.context, other.target);
  return contrast / Math.max(1 - dot(one.target, one.context), 1e-3);
}

/** Keep the tokens with the best scores for good: the share `retention`, at least one. */
export function prune(template: Template, scores: ArrayLike<number>, retention: number): Template {
  const order = Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  const product = retention * scores.length;
  const up = Math.floor(product + 0.5); // of two nearest integers the even one, as Python rounds
  const count = Math.max(product + 0.5 === up && up % 2 ? up - 1 : up, 1);
  return { ...kept(template, order.slice(0, count).sort((a, b) => a - b)), pruned: true };
}

/** Of all tokens, those of the square of `side` a side in the middle of the crop. */
export function center(template: Template, side: number): Template {
  const grid = Math.round(Math.sqrt(template.kvCache.tokens));
  const edge = (grid - side) / 2;
  const inside = (at: number) => at >= edge && at < grid - edge;
  const all = Array.from({ length: grid * grid }, (_, i) => i);
  return edge ? kept(template, all.filter((i) => inside(Math.floor(i / grid)) && inside(i % grid))) : template;
}

/** With these of its tokens alone. */
function kept(template: Template, indices: readonly number[]): Template {
  const keep = template.keep ? indices.map((i) => template.keep![i]) : indices;
  const rest = template.rest && select(template.rest, indices);
  return { ...template, keep, kvCache: select(template.kvCache, indices), rest };
}

/** The cache of some of a template's tokens. */
export function select(cache: KVCache, keep: readonly number[]): KVCache {
  const channels = cache.shape[cache.shape.length - 1];
  const lead = cache.data.length / (cache.tokens * channels);
  const data = new Float32Array(lead * keep.length * channels);
  for (let i = 0, at = 0; i < lead; i++) {
    for (const token of keep) {
      const from = (i * cache.tokens + token) * channels;
      data.set(cache.data.subarray(from, from + channels), at);
      at += channels;
    }
  }
  return withTokens(cache, data, keep.length);
}

export function join(caches: readonly KVCache[]): KVCache {
  if (caches.length === 1) return caches[0];
  const channels = caches[0].shape[caches[0].shape.length - 1];
  const lead = caches[0].data.length / (caches[0].tokens * channels);
  const tokens = caches.reduce((sum, cache) => sum + cache.tokens, 0);
  const data = new Float32Array(lead * tokens * channels);
  for (let i = 0, at = 0; i < lead; i++) {
    for (const cache of caches) {
      const length = cache.tokens * channels;
      data.set(cache.data.subarray(i * length, (i + 1) * length), at);
      at += length;
    }
  }
  return withTokens(caches[0], data, tokens);
}

function withTokens(like: KVCache, data: Float32Array, tokens: number): KVCache {
  const shape = [...like.shape];
  shape[shape.length - 2] = tokens;
  return { data, shape, tokens };
}

export class TemplateMemory {
  #chosen?: readonly number[];
  #kvCache?: KVCache;

  constructor(
    /** The most templates that the network is given at once. */
    readonly slots: number,
    readonly capacity: number,
    /** In order of time; the first is never given up. */
    readonly history: readonly Template[],
  ) {}

  /** With a newer template; over capacity, the one that leaves the smallest gap in time is given up. */
  add(template: Template): TemplateMemory {
    const history = [...this.history, template];
    if (history.length > this.capacity) {
      let least = 1;
      const gap = (i: number) => history[i + 1].frame - history[i - 1].frame;
      for (let i = 2; i < history.length - 1; i++) if (gap(i) < gap(least)) least = i;
      history.splice(least, 1);
    }
    return this.#with(history);
  }

  /** Without the templates from this frame on; the first always stays. */
  before(frame: number): TemplateMemory {
    return this.#with(this.history.filter((template, place) => place === 0 || template.frame < frame));
  }

  replace(place: number, template: Template): TemplateMemory {
    return this.#with(this.history.with(place, template));
  }

  /** The places of up to `slots` templates: the first, the newest, and those nearest to a linear spread between. */
  get chosen(): readonly number[] {
    if (this.#chosen) return this.#chosen;
    if (this.slots === 1) return (this.#chosen = [0]);
    const frames = this.history.map((template) => template.frame);
    const [first, last] = [frames[0], frames[frames.length - 1]];
    const chosen = new Set([0, frames.length - 1]);
    const step = (last - first) / (this.slots - 1);
    for (let slot = 1; slot < this.slots - 1; slot++) {
      const wanted = slot * step + first;
      const distance = frames.map((frame) => Math.abs(frame - wanted));
      const free = frames.map((_, place) => place).filter((place) => !chosen.has(place));
      free.sort((a, b) => distance[a] - distance[b] || a - b);
      if (free.length) chosen.add(free[0]);
    }
    return (this.#chosen = [...chosen].sort((a, b) => a - b));
  }

  /** How much a template's target looks like one of those in use. */
  likeness(template: Template): number {
    return Math.max(...this.chosen.map((place) => likeness(this.history[place], template)));
  }

  get kvCache(): KVCache {
    return (this.#kvCache ??= join(this.chosen.map((place) => this.history[place].kvCache)));
  }

  #with(history: readonly Template[]): TemplateMemory {
    return new TemplateMemory(this.slots, this.capacity, history);
  }
}
