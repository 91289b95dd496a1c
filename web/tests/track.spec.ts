/** Clips tracked from end to end; Python compares the CSV files with its own boxes. `JOBS` lists them as JSON. */

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "@playwright/test";
import { download, drag, type Four, openClip, track } from "./actions";

interface Job {
  clip: string;
  box: Four;
  model: string;
  csv: string;
}
const jobs: Job[] = process.env.JOBS ? JSON.parse(readFileSync(process.env.JOBS, "utf8")) : [];

for (const { clip, box, model, csv } of jobs) {
  test(`${clip} with ${model}`, async ({ page }) => {
    test.setTimeout(900_000);
    await page.goto("/");
    await page.getByLabel("Model").selectOption(model);
    await openClip(page, clip);
    await drag(page, box);
    const message = await track(page);
    expect(message).toMatch(/^Tracked/);
    const { path } = await download(page, "CSV");
    copyFileSync(path, csv);
    writeFileSync(`${csv}.txt`, message);
  });
}
