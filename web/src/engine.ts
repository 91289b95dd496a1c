/** The engine: ONNX Runtime in WebAssembly, in single precision. */

import * as ort from "onnxruntime-web/wasm";
import module from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import binary from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import type { Box } from "./geometry";
import { type GraphName, type Package, WEIGHTS } from "./packages";
import type { KVCache } from "./templates";
import type { Engine, ModelConfig, Size } from "./tracker";

// as files of their own: threads would otherwise run all of the worker's code again
ort.env.wasm.wasmPaths = { mjs: module, wasm: binary };
ort.env.logLevel = "error";

/** Threads of one call: a page may share memory between threads only where its server isolates it. */
export function threads(): number {
  return globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
}

export class OnnxEngine implements Engine {
  readonly config: ModelConfig;
  #sessions = new Map<GraphName, Promise<ort.InferenceSession>>();
  #last: Promise<unknown> = Promise.resolve();

  private constructor(private readonly model: Package) {
    this.config = model.config;
  }

  static async open(model: Package): Promise<OnnxEngine> {
    ort.env.wasm.numThreads = threads();
    const engine = new OnnxEngine(model);
    for (const name of ["template", "template_rest", "search"] as const) {
      if (model.graphs[name]) await engine.#session(name);
    }
    return engine;
  }

  #session(name: GraphName): Promise<ort.InferenceSession> {
    const known = this.#sessions.get(name);
    if (known) return known;
    const opened = ort.InferenceSession.create(this.model.graphs[name]!, {
      executionProviders: ["wasm"],
      externalData: [{ path: WEIGHTS, data: this.model.weights }],
    });
    this.#sessions.set(name, opened);
    return opened;
  }

  /** One call after the other: the runtime does not bear two at once. */
  #run(name: GraphName, inputs: Record<string, ort.Tensor>): Promise<ort.InferenceSession.ReturnType> {
    const result = this.#last.then(async () => (await this.#session(name)).run(inputs));
    this.#last = result.catch(() => {});
    return result;
  }

  async beginTemplate(crop: Uint8Array, identity: number, box: Box) {
    const side = this.config.template_size;
    const found = await this.#run("template", {
      templates: new ort.Tensor("uint8", crop, [1, side, side, 3]),
      identities: new ort.Tensor("int64", BigInt64Array.of(BigInt(identity)), [1]),
      boxes: new ort.Tensor("float32", Float32Array.from(box), [1, 4]),
    });
    return { kvCache: single(found.kv_cache), rest: found.tokens ? single(found.tokens) : null };
  }

  async finishTemplate({ data, shape }: KVCache): Promise<KVCache> {
    const found = await this.#run("template_rest", { tokens: new ort.Tensor("float32", data, [1, ...shape]) });
    return single(found.kv_cache);
  }

  async search(crop: Uint8Array, size: Size, trajectory: readonly number[], kvCache: KVCache): Promise<Float32Array> {
    return (await this.#run("search", inputs(crop, size, trajectory, kvCache))).logits.data as Float32Array;
  }

  async searchScored(crop: Uint8Array, size: Size, trajectory: readonly number[], kvCache: KVCache) {
    const found = await this.#run("search_scored", inputs(crop, size, trajectory, kvCache));
    return { logits: found.logits.data as Float32Array, scores: found.scores.data as Float32Array };
  }
}

/** Of a batch of one. */
function single({ data, dims }: ort.Tensor): KVCache {
  return { data: data as Float32Array, shape: dims.slice(1), tokens: dims[dims.length - 2] };
}

/** The cache's tensors along its first axis are apart. */
function inputs(crop: Uint8Array, [width, height]: Size, trajectory: readonly number[], { data, shape }: KVCache) {
  const named: Record<string, ort.Tensor> = {
    search: new ort.Tensor("uint8", crop, [1, height, width, 3]),
    trajectory: new ort.Tensor("int64", BigInt64Array.from(trajectory, BigInt), [1, trajectory.length]),
  };
  const [count, ...dims] = shape;
  const size = data.length / count;
  for (let i = 0; i < count; i++) {
    named[`kv_cache_${i}`] = new ort.Tensor("float32", data.subarray(i * size, (i + 1) * size), [1, ...dims]);
  }
  return named;
}
