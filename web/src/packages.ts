/** Models as the Python package ships them: fetched once with progress, then kept in the browser's cache. */

import type { Calibration } from "./calibration";
import { Problem } from "./errors";
import type { ModelConfig, Settings } from "./tracker";

const FORMAT = 6;
const CACHE = "fartrack-models";
const GRAPHS = ["template", "template_rest", "search", "search_scored"] as const;
export const WEIGHTS = "weights.safetensors";

export type GraphName = (typeof GRAPHS)[number];
export type Progress = (loaded: number, total: number) => void;

interface Record_ {
  format: number;
  network?: string;
  config: ModelConfig & { depth: number };
  settings?: Partial<Settings>;
  score?: Calibration;
  presets?: Record<string, Partial<Settings>>;
}

export interface Package {
  name: string;
  config: ModelConfig;
  settings: Partial<Settings>;
  calibration: Calibration | null;
  /** `template_rest` only where there is one. */
  graphs: Partial<Record<GraphName, Uint8Array>>;
  weights: Uint8Array;
}

/** Size and SHA-256 of every file, by its path. */
type Files = Record<string, { size: number; sha256: string }>;

/** A model by its name, `pico` or `pico-fast`, from the folder at `root`. */
export async function openPackage(root: string, name: string, progress: Progress): Promise<Package> {
  const files = (await (await get(`${root}files.json`, "no-cache")).json()) as Files;
  const [base, preset] = `${name}/model.json` in files ? [name, null] : name.split(/-(?=[^-]*$)/);
  if (!(`${base}/model.json` in files)) throw new Problem(`There is no model ${name} here.`);
  const store = "caches" in globalThis ? await caches.open(CACHE) : null;
  const record = JSON.parse(new TextDecoder().decode(await fetchFile(root, `${base}/model.json`, files, store))) as Record_;
  if (record.format !== FORMAT) throw new Problem(`The model ${name} is of another format; reload the page.`);
  const network = new URL(`${base}/${record.network ?? "."}/`, "file:///").pathname.slice(1);
  const path = (graph: GraphName) => `${network}${graph}-${record.config.depth}.onnx`;
  const graphs = GRAPHS.filter((graph) => graph !== "template_rest" || path(graph) in files);
  const wanted = [...graphs.map(path), network + WEIGHTS];
  const total = wanted.reduce((sum, path) => sum + files[path].size, 0);
  let done = 0;
  const contents: Uint8Array[] = [];
  for (const path of wanted) {
    contents.push(await fetchFile(root, path, files, store, (loaded) => progress(done + loaded, total)));
    done += files[path].size;
  }
  await forgetOthers(root, files, store);
  return {
    name,
    config: record.config,
    settings: { ...record.settings, ...(preset ? record.presets?.[preset] : {}) },
    calibration: record.score ?? null,
    graphs: Object.fromEntries(graphs.map((graph, i) => [graph, contents[i]])),
    weights: contents[graphs.length],
  };
}

async function get(address: string, cache: RequestCache = "default"): Promise<Response> {
  const response = await fetch(address, { cache }).catch(() => null);
  if (!response?.ok) throw new Problem("The model cannot be loaded; check the connection and reload the page.");
  return response;
}

/** A file from the cache, or from the server, then cached under its hash. */
async function fetchFile(
  root: string,
  path: string,
  files: Files,
  store: Cache | null,
  progress: (loaded: number) => void = () => {},
): Promise<Uint8Array> {
  const key = `${root}${path}?${files[path].sha256}`;
  const kept = await store?.match(key);
  const response = kept ?? (await get(root + path));
  const content = new Uint8Array(files[path].size);
  const reader = response.body!.getReader();
  let loaded = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (loaded + part.value.length > content.length) break;
    content.set(part.value, loaded);
    progress((loaded += part.value.length));
  }
  if (loaded !== content.length) throw new Problem("The model came incomplete; check the connection and reload.");
  // a full disk or a private window may refuse, which costs the next visit a download
  if (!kept) await store?.put(key, new Response(content)).catch(() => {});
  return content;
}

/** Remove what earlier versions left in the cache. */
async function forgetOthers(root: string, files: Files, store: Cache | null): Promise<void> {
  const current = new Set(Object.entries(files).map(([path, { sha256 }]) => `${root}${path}?${sha256}`));
  for (const request of (await store?.keys()) ?? []) {
    if (request.url.startsWith(root) && !current.has(request.url)) await store!.delete(request);
  }
}
