// All that the pages use of NiiVue.
export { NVImage, Niivue } from "@niivue/niivue";
