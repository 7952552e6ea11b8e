/**
 * The crop of a picture: a square that is moved, zoomed and turned over it; or all of it.
 */

const MOST_ZOOM = 8;
const QUARTER = Math.PI / 2;

const clamped = (value, least, most) => Math.min(Math.max(value, least), Math.max(least, most));

export class Crop {
  /** @param {number} width of the picture @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    /** Whether nothing is cut off; the picture may still be turned by quarters. */
    this.whole = false;
    this.reset();
  }

  /** Return to the square in the centre. */
  reset() {
    this.zoom = 1;
    this.quarters = 0;
    this.degrees = 0;
    this.x = this.width / 2;
    this.y = this.height / 2;
  }

  /** The angle by which the picture is turned clockwise, in radians. */
  get angle() {
    return this.quarters * QUARTER + (this.whole ? 0 : (this.degrees * Math.PI) / 180);
  }

  /** How much wider the square's bounding box is than the square. */
  get spread() {
    return Math.abs(Math.cos(this.angle)) + Math.abs(Math.sin(this.angle));
  }

  /** The side of the square, in pixels of the picture. */
  get side() {
    return Math.min(this.width, this.height) / this.spread / this.zoom;
  }

  /** The sides of the result, in pixels of the picture. */
  get sides() {
    if (!this.whole) return [this.side, this.side];
    return this.quarters % 2 ? [this.height, this.width] : [this.width, this.height];
  }

  /** Whether the result is the picture as it is. */
  get untouched() {
    const all = this.whole || (this.width === this.height && this.zoom === 1 && !this.degrees);
    return all && this.quarters === 0;
  }

  /** Turn a vector of the view, in sides of the square, to pixels of the picture. */
  toPicture(across, down) {
    const [cos, sin] = [Math.cos(-this.angle) * this.side, Math.sin(-this.angle) * this.side];
    return [across * cos - down * sin, across * sin + down * cos];
  }

  /** Move the picture under the square, by shares of the side. */
  move(across, down) {
    const [x, y] = this.toPicture(across, down);
    this.place(this.x - x, this.y - y);
  }

  /** Zoom to this factor; the point of the view at this distance from its centre stays. */
  zoomTo(zoom, across = 0, down = 0) {
    const before = this.toPicture(across, down);
    this.zoom = clamped(zoom, 1, MOST_ZOOM);
    const after = this.toPicture(across, down);
    this.place(this.x + before[0] - after[0], this.y + before[1] - after[1]);
  }

  /** Turn the picture by quarters, clockwise. */
  turn(quarters) {
    this.quarters = (this.quarters + quarters + 4) % 4;
    this.place(this.x, this.y);
  }

  /** Set the angle within the quarter, from -45 to 45 degrees. */
  straighten(degrees) {
    this.degrees = clamped(degrees, -45, 45);
    this.place(this.x, this.y);
  }

  /** Set the centre of the square, as near as the square stays within the picture. */
  place(x, y) {
    const reach = (this.side * this.spread) / 2;
    this.x = clamped(x, reach, this.width - reach);
    this.y = clamped(y, reach, this.height - reach);
  }

  /** The place of the square as shares of the way that it can go, in percent. */
  get position() {
    const reach = (this.side * this.spread) / 2;
    const share = (value, most) =>
      most - 2 * reach < 0.5 ? 50 : Math.round(((value - reach) / (most - 2 * reach)) * 100);
    return { across: share(this.x, this.width), down: share(this.y, this.height) };
  }
}
