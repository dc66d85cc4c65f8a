// NiiVue panels with a common crosshair.
import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

const OPTIONS = {
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.36, 0.67, 0.93, 0.9],
  crosshairWidth: 0.6,
  crosshairWidthUnit: "mm",
  dragAndDropEnabled: false,
  fontColor: [0.75, 0.75, 0.75, 1],
  fontMinPx: 11,
  isColorbar: false,
  loadingText: "",
  logLevel: "error",
  multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
  multiplanarShowRender: SHOW_RENDER.NEVER,
  sagittalNoseLeft: false,
  show3Dcrosshair: false,
  sliceType: SLICE_TYPE.MULTIPLANAR,
};

/** Whether this browser supports WebGL2. */
export function supported() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(context);
}

/** A panel on a canvas. `show(volumes, centre)` draws layers {name, base64, colormap, opacity, low, high}. The crosshair
 *  stays, except that a new volume moves it to `centre` (fractions of the volume), if given. */
export async function panel(canvas) {
  const nv = new Niivue(OPTIONS);
  await nv.attachToCanvas(canvas);
  const images = new Map();
  async function image(volume) {
    if (!images.has(volume.name)) {
      images.set(
        volume.name,
        await NVImage.loadFromBase64({
          base64: volume.base64(),
          name: `${volume.name}.nii.gz`,
          colormap: volume.colormap,
          opacity: volume.opacity,
          cal_min: volume.low,
          cal_max: volume.high,
        }),
      );
    }
    return images.get(volume.name);
  }
  return {
    nv,
    async show(volumes, centre) {
      const layers = await Promise.all(volumes.map(image));
      layers.forEach((layer, k) => {
        layer.cal_min = volumes[k].low;
        layer.cal_max = volumes[k].high;
        layer.opacity = volumes[k].opacity;
      });
      const crosshair = [...nv.scene.crosshairPos];
      const changed = nv.volumes[0] !== layers[0];
      const first = nv.volumes.length === 0;
      while (nv.volumes.length) nv.removeVolume(nv.volumes[0]);
      layers.forEach((layer) => nv.addVolume(layer));
      if (!first) nv.scene.crosshairPos = crosshair;
      if (changed && centre) nv.scene.crosshairPos = centre;
      nv.updateGLVolume();
    },
  };
}

/** Synchronise the crosshairs of panels. */
export function link(panels) {
  const all = panels.map((panel) => panel.nv);
  all.forEach((nv) => nv.broadcastTo(all.filter((other) => other !== nv), { "2d": true, "3d": true }));
}
