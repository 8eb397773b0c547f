"use strict";
// Slides as Deep Zoom tiles: which of them a view needs, fetching these nearest first, and drawing what is there.

const AT_ONCE = 6;
const KEPT = 500;
const SHARP = 0.25; // octaves that a level may be too coarse before the next finer one is taken
const BASE_TILES = 4;

/** Fetches tiles and keeps them decoded. `onTile` is called whenever there is something new to draw. */
export class Loader {
  constructor(onTile) {
    this.onTile = onTile;
    this.kept = new Map(); // address -> ImageBitmap, or null where the slide cannot be read; used last stands last
    this.flying = new Map(); // address -> AbortController
  }

  /** The bitmap; null where it cannot be read; undefined where it is not there (yet). */
  look(address) {
    const found = this.kept.get(address);
    if (found !== undefined) {
      this.kept.delete(address);
      this.kept.set(address, found);
    }
    return found;
  }

  /** Fetch these, [address, urgency] (lowest first), and nothing else any more. */
  want(wanted) {
    const missing = [...wanted].filter(([address]) => !this.kept.has(address));
    missing.sort((one, other) => one[1] - other[1]);
    const next = new Set(missing.map(([address]) => address));
    for (const [address, flight] of this.flying) {
      if (!next.has(address)) {
        flight.abort();
        this.flying.delete(address);
      }
    }
    for (const address of next) {
      if (this.flying.size >= AT_ONCE) break;
      if (!this.flying.has(address)) this.fetch(address);
    }
    for (const [address, bitmap] of this.kept) {
      if (this.kept.size <= KEPT) break;
      if (wanted.has(address)) continue;
      this.kept.delete(address);
      bitmap?.close();
    }
    this.idle = missing.length === 0;
  }

  async fetch(address) {
    const flight = new AbortController();
    this.flying.set(address, flight);
    try {
      const answer = await fetch(address, { signal: flight.signal });
      const bitmap = answer.ok ? await createImageBitmap(await answer.blob()) : null;
      if (!flight.signal.aborted) this.kept.set(address, bitmap);
    } catch (error) {
      if (error.name === "AbortError") return;
      await new Promise((resolve) => setTimeout(resolve, 1000)); // the server is gone, or not yet back
    } finally {
      if (this.flying.get(address) === flight) this.flying.delete(address);
    }
    this.onTile();
  }
}

/** One slide. `pane` is what the server says of it; lengths are in its unit, um where a resolution is known. */
export class Slide {
  constructor(pane) {
    this.pane = pane;
    this.width = pane.width * pane.mpp_x;
    this.height = pane.height * pane.mpp_y;
    this.finest = pane.levels - 1;
    this.base = this.finest;
    while (this.base > pane.first_level && this.columns(this.base) * this.rows(this.base) > BASE_TILES) this.base -= 1;
  }

  /** Pixels of level 0 along a pixel of a level. */
  step(level) {
    return 2 ** (this.finest - level);
  }

  columns(level) {
    return Math.ceil(Math.ceil(this.pane.width / this.step(level)) / this.pane.tile);
  }

  rows(level) {
    return Math.ceil(Math.ceil(this.pane.height / this.step(level)) / this.pane.tile);
  }

  /** The coarsest level that is sharp at so many units per device pixel. */
  levelFor(unit) {
    const octaves = Math.floor(Math.log2(unit / Math.min(this.pane.mpp_x, this.pane.mpp_y)) + SHARP);
    return Math.min(this.finest, Math.max(this.base, this.finest - octaves));
  }

  /**
   * Draw the part of the slide that lies in a window, and add the tiles it needs to `wanted`.
   * `frame` {x, y, unit}: what lies at device pixel 0, 0, and units per device pixel. `seen` {left, right, top, bottom}:
   * device pixels. Edges fall on whole device pixels, so that no line shows between tiles.
   */
  draw(context, frame, seen, loader, wanted) {
    context.save();
    context.beginPath();
    context.rect(seen.left, seen.top, seen.right - seen.left, seen.bottom - seen.top);
    context.clip();
    const [left, top] = [Math.round(-frame.x / frame.unit), Math.round(-frame.y / frame.unit)];
    const [right, bottom] = [Math.round((this.width - frame.x) / frame.unit), Math.round((this.height - frame.y) / frame.unit)];
    context.fillStyle = "#f4f4f4";
    context.fillRect(left, top, right - left, bottom - top);
    const wantedLevel = this.levelFor(frame.unit);
    for (const tile of this.tiles(this.base, frame, seen)) wanted.set(tile.address, -1);
    const fine = this.tiles(wantedLevel, frame, seen);
    for (const tile of fine) if (!(wanted.get(tile.address) < 0)) wanted.set(tile.address, tile.distance);
    const covered = fine.every((tile) => loader.look(tile.address));
    for (let level = covered ? wantedLevel : this.base; level < wantedLevel; level += 1) {
      for (const tile of this.tiles(level, frame, seen)) paint(context, tile, loader.kept.get(tile.address));
    }
    for (const tile of fine) paint(context, tile, loader.look(tile.address));
    context.restore();
  }

  /** The tiles of a level in a window: address, place in device pixels, distance from the window's middle. */
  tiles(level, frame, seen) {
    const [unitX, unitY] = [this.pane.mpp_x * this.step(level), this.pane.mpp_y * this.step(level)];
    const [tileX, tileY] = [unitX * this.pane.tile, unitY * this.pane.tile];
    const first = (start, pixel, size) => Math.max(0, Math.floor((start + pixel * frame.unit) / size));
    const last = (start, pixel, size, count) => Math.min(count - 1, Math.floor((start + pixel * frame.unit) / size));
    const found = [];
    for (let row = first(frame.y, seen.top, tileY); row <= last(frame.y, seen.bottom, tileY, this.rows(level)); row += 1) {
      for (let column = first(frame.x, seen.left, tileX); column <= last(frame.x, seen.right, tileX, this.columns(level)); column += 1) {
        const x = (column * tileX - frame.x) / frame.unit;
        const y = (row * tileY - frame.y) / frame.unit;
        found.push({
          address: `tiles/${this.pane.id}/${level}/${column}/${row}`,
          left: Math.round(x), right: Math.round(Math.min(x + tileX / frame.unit, (this.width - frame.x) / frame.unit)),
          top: Math.round(y), bottom: Math.round(Math.min(y + tileY / frame.unit, (this.height - frame.y) / frame.unit)),
          margins: { left: column > 0, right: column + 1 < this.columns(level), top: row > 0, bottom: row + 1 < this.rows(level) },
          distance: Math.hypot(x + tileX / frame.unit / 2 - (seen.left + seen.right) / 2, y + tileY / frame.unit / 2 - (seen.top + seen.bottom) / 2),
        });
      }
    }
    return found;
  }
}

/** Draw a tile at its place; where it is enlarged, its margins of a pixel let it blend into its neighbours. */
function paint(context, tile, bitmap) {
  if (bitmap === undefined) return;
  const [width, height] = [tile.right - tile.left, tile.bottom - tile.top];
  context.save();
  context.beginPath();
  context.rect(tile.left, tile.top, width, height);
  context.clip();
  if (bitmap) {
    const scaleX = width / (bitmap.width - tile.margins.left - tile.margins.right);
    const scaleY = height / (bitmap.height - tile.margins.top - tile.margins.bottom);
    const [left, top] = [tile.left - tile.margins.left * scaleX, tile.top - tile.margins.top * scaleY];
    context.drawImage(bitmap, left, top, bitmap.width * scaleX, bitmap.height * scaleY);
  } else {
    hatch(context, tile, width, height);
  }
  context.restore();
}

/** What a tile shows that cannot be read: hatching over what coarser levels have there. */
function hatch(context, tile, width, height) {
  context.fillStyle = "rgb(163 36 59 / 0.15)";
  context.fillRect(tile.left, tile.top, width, height);
  context.strokeStyle = "rgb(163 36 59 / 0.6)";
  context.lineWidth = 2;
  context.beginPath();
  for (let x = tile.left - height; x < tile.right; x += 24) {
    context.moveTo(x, tile.bottom);
    context.lineTo(x + height, tile.top);
  }
  context.stroke();
  context.fillStyle = "#a3243b";
  context.font = "600 16px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText("cannot be read", tile.left + width / 2, tile.top + height / 2);
}
