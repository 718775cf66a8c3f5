// Knobs of MIDI controllers that move the page's sliders. To learn: press the button, move a slider,
// turn a knob.
const STORED = "oobleck-midi";

export class Midi {
  constructor(button, sliders, tell) {
    Object.assign(this, { button, sliders, tell });
    this.learning = false;
    this.chosen = null;
    try { this.knobs = JSON.parse(localStorage.getItem(STORED)) || {}; } catch { this.knobs = {}; }
    button.hidden = !navigator.requestMIDIAccess;
    button.addEventListener("click", () => this.toggle());
    for (const slider of sliders)
      slider.addEventListener("input", (event) => { if (this.learning && event.isTrusted) this.choose(slider); });
  }

  async toggle() {
    try {
      this.access ||= await navigator.requestMIDIAccess();
    } catch {
      return this.tell("the browser does not allow MIDI here");
    }
    for (const input of this.access.inputs.values()) input.onmidimessage = ({ data }) => this.receive(data);
    this.learning = !this.learning;
    this.chosen = null;
    this.button.setAttribute("aria-pressed", this.learning);
    const devices = this.access.inputs.size;
    this.tell(this.learning ? `${devices} MIDI devices: move a slider, then turn a knob` : "MIDI knobs learned");
  }

  choose(slider) {
    this.chosen = slider;
    this.tell(`${slider.labels[0]?.textContent.trim() || slider.id}: now turn a knob`);
  }

  receive([status, number, value]) {
    if ((status & 0xf0) !== 0xb0) return;
    const knob = `${status & 15}.${number}`;
    if (this.learning && this.chosen) {
      this.knobs[knob] = this.chosen.id;
      localStorage.setItem(STORED, JSON.stringify(this.knobs));
      this.tell(`knob ${number} moves ${this.chosen.id}`);
      this.chosen = null;
    }
    const slider = this.sliders.find((one) => one.id === this.knobs[knob]);
    if (!slider) return;
    slider.value = Number(slider.min) + (value / 127) * (slider.max - slider.min);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
