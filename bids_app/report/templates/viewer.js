"use strict";
(() => {
  // The viewer is unpacked when somebody asks for it: until then it costs nothing but its bytes.
  const text = (id) => document.getElementById(id).content.textContent.trim();
  const bytes = (id) => Uint8Array.from(atob(text(id)), (letter) => letter.charCodeAt(0));
  const unpack = async (packed) => new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();

  let library = null;
  const load = () => {
    library ??= unpack(bytes("niivue-library")).then((source) => {
      const script = document.createElement("script");
      script.textContent = `${source};globalThis.niivue = niivue;`;
      document.head.append(script);
      return globalThis.niivue;
    });
    return library;
  };

  const able = () => {
    if (typeof DecompressionStream === "undefined") return "This browser cannot unpack the viewer: use one of 2023 or later.";
    if (!document.createElement("canvas").getContext("webgl2")) return "This browser has no WebGL 2, which the viewer draws with: switch on hardware acceleration, or look at the slices above.";
    return "";
  };

  const open = async (figure) => {
    const say = figure.querySelector(".viewer-note");
    const why = able();
    if (why) { say.textContent = why; return; }
    say.textContent = "Unpacking …";
    const { Niivue, NVImage } = await load();
    const stage = figure.querySelector(".viewer-stage");
    stage.hidden = false;
    const layers = [...figure.querySelectorAll("input[data-volume]")];
    const sliders = [...figure.querySelectorAll("input[data-axis]")];
    const view = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 0.82, 0.25, 0.8], crosshairWidth: 0.6, logLevel: "silent",
      isRadiologicalConvention: false, dragAndDropEnabled: false, sagittalNoseLeft: false, multiplanarForceRender: false,
      onLocationChange: (place) => {
        say.textContent = `x ${place.mm[0].toFixed(0)}, y ${place.mm[1].toFixed(0)}, z ${place.mm[2].toFixed(0)} mm`;
        for (const slider of sliders) slider.value = place.frac[Number(slider.dataset.axis)];
      },
    });
    await view.attachToCanvas(figure.querySelector("canvas"));
    view.setInterpolation(false);
    for (const input of layers) {
      const volume = await NVImage.loadFromBase64({ base64: text(input.dataset.volume), name: "volume.nii.gz", colormap: input.dataset.colours });
      volume.opacity = input.checked ? Number(input.dataset.opacity) : 0;
      view.addVolume(volume);
    }
    layers.forEach((input, i) => input.addEventListener("change", () => view.setOpacity(i, input.checked ? Number(input.dataset.opacity) : 0)));
    for (const slider of sliders) {
      slider.addEventListener("input", () => {
        view.scene.crosshairPos[Number(slider.dataset.axis)] = Number(slider.value);
        view.createOnLocationChange();
        view.drawScene();
      });
    }
    view.createOnLocationChange();
    figure.dataset.open = "";
  };

  for (const figure of document.querySelectorAll("[data-viewer]")) {
    const button = figure.querySelector("button[data-open]");
    button.hidden = false;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await open(figure);
        button.hidden = figure.dataset.open !== undefined;
      } catch (problem) {
        figure.querySelector(".viewer-note").textContent = `The viewer could not be opened (${problem.message}). The slices above show the same images.`;
      }
      button.disabled = false;
    });
  }
})();
