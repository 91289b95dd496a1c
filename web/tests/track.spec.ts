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
  test(`${clip} with ${model}`, async ({ page, browser }) => {
    test.setTimeout(900_000);
    await page.goto("/");
    await page.getByLabel("Model").selectOption(model);
    await openClip(page, clip);
    await drag(page, box);
    await expect(page.locator("#model-state")).toContainText("is ready", { timeout: 300_000 });
    const processes = await browser.newBrowserCDPSession();
    const busy = async () =>
      (await processes.send("SystemInfo.getProcessInfo")).processInfo.reduce((sum, { cpuTime }) => sum + cpuTime, 0);
    const before = await busy();
    const message = await track(page);
    const cpu = (await busy()) - before; // seconds of all of the browser's processes
    expect(message).toMatch(/^Tracked/);
    const { path } = await download(page, "CSV");
    copyFileSync(path, csv);
    writeFileSync(`${csv}.json`, JSON.stringify({ message, cpu }));
  });
}
