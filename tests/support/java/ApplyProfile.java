import java.awt.color.ColorSpace;
import java.awt.color.ICC_Profile;
import java.awt.image.ColorConvertOp;
import java.awt.image.DataBuffer;
import java.awt.image.Raster;
import java.awt.image.WritableRaster;

/** Takes RGB bytes on standard input from a profile to Java's sRGB, in place, as QuPath does: FILE WIDTH HEIGHT. */
public class ApplyProfile {
    public static void main(String[] arguments) throws Exception {
        int width = Integer.parseInt(arguments[1]), height = Integer.parseInt(arguments[2]);
        WritableRaster raster = Raster.createInterleavedRaster(DataBuffer.TYPE_BYTE, width, height, 3, null);
        raster.setDataElements(0, 0, width, height, System.in.readAllBytes());
        ICC_Profile[] profiles = {ICC_Profile.getInstance(arguments[0]), ICC_Profile.getInstance(ColorSpace.CS_sRGB)};
        new ColorConvertOp(profiles, null).filter(raster, raster);
        System.out.write((byte[]) raster.getDataElements(0, 0, width, height, null));
        System.out.flush();
    }
}
