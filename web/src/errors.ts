/** What a visitor can do something about: one sentence. Anything else is a fault of ours. */
export class Problem extends Error {
  override name = "Problem";
}

export function sentence(error: unknown): string {
  if (error instanceof Error) return error.name === "Problem" ? error.message : `Something went wrong: ${error.message}`;
  return String(error);
}
